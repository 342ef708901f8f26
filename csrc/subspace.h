/* The direction of L-BFGS in the subspace of the free parameters. */
#ifndef FO_SUBSPACE_H
#define FO_SUBSPACE_H

#include "history.h"

/* Set the factors of the vectors of `count` pairs, at least one, and of the gradient in the direction; return whether
   there is one. The products of the pairs' free elements must be known, and the mode must be the default one. */
int fo_subspace_factors(const fo_history *history, int64_t count, double *of_grad);

#endif
