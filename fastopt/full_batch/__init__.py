"""Full-batch methods: L-BFGS, BFGS, Newton, block coordinate descent, and what they are made of."""
