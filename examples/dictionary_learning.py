"""
Learning a dictionary
=====================

Images of digits become sums of few strokes, and the strokes are learned with them.

The codes, given the dictionary, are a lasso for each image: fastopt.sparse_code. The atoms, given the codes, are least
squares, one after the other. Block coordinate descent takes turns. Needs scikit-learn, for the images; with the name of
a file it also draws the atoms, with matplotlib::

    python examples/dictionary_learning.py
    python examples/dictionary_learning.py atoms.png
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import fastopt

ATOMS, L1 = 64, 0.2


def learn(X: np.ndarray, cycles: int) -> tuple[dict[str, np.ndarray], Any]:
    """Return the codes and the dictionary of the rows of X, and the result."""
    rng = np.random.default_rng(0)
    dictionary = X[rng.choice(len(X), ATOMS, replace=False)] + 0.1 * rng.normal(size=(ATOMS, X.shape[1]))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    params = {"codes": np.zeros((len(X), ATOMS)), "dictionary": dictionary}

    def loss(params: dict[str, np.ndarray]) -> float:
        codes, dictionary = params["codes"], params["dictionary"]
        return 0.5 * ((X - codes @ dictionary) ** 2).sum() + L1 * np.abs(codes).sum()

    def best_codes(params: dict[str, np.ndarray]) -> None:
        codes = params["codes"]
        codes[...] = fastopt.sparse_code(X, params["dictionary"], L1, start=codes, tol=1e-4)

    def better_atoms(params: dict[str, np.ndarray]) -> None:
        """Each atom in turn is the best of length 1 at most, given the others (Mairal et al. 2009)."""
        codes, dictionary = params["codes"], params["dictionary"]
        gram, products = codes.T @ codes, codes.T @ X
        for j in np.flatnonzero(gram.diagonal()):
            atom = dictionary[j] + (products[j] - gram[j] @ dictionary) / gram[j, j]
            dictionary[j] = atom / max(1.0, np.linalg.norm(atom))

    blocks = {"codes": best_codes, "dictionary": better_atoms}
    return params, fastopt.block_coordinate_descent(loss, params, blocks, ftol=0.1, max_iterations=cycles)


def draw(dictionary: np.ndarray, path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), layout="constrained")
    for axes, atom in zip(figure.subplots(8, 8).flat, dictionary, strict=True):
        axes.imshow(atom.reshape(8, 8), cmap="gray")
        axes.axis("off")
    figure.savefig(path)


def main() -> None:
    X = load_digits().data / 16
    X -= X.mean(axis=0)
    params, result = learn(X, cycles=12)
    codes, dictionary = params["codes"], params["dictionary"]
    left = ((X - codes @ dictionary) ** 2).sum() / (X**2).sum()
    print(f"loss {result.loss:.1f} after {result.iterations} cycles")
    used = (codes != 0).sum(axis=1).mean()
    print(f"{used:.1f} of {ATOMS} atoms in an image; {100 * (1 - left):.1f} % of the variance")
    if len(sys.argv) > 1:
        draw(dictionary, sys.argv[1])


if __name__ == "__main__":
    main()
