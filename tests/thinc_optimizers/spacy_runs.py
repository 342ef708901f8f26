"""Runs of ``spacy train`` on generated corpora: classes of texts, and named entities."""

from __future__ import annotations

import contextlib
import io
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import spacy
from spacy.cli.train import train
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.vocab import Vocab

WORDS = [f"word{i}" for i in range(300)]
NAMES = {"PERSON": [f"Name{i}" for i in range(30)], "PLACE": [f"Town{i}" for i in range(30)]}


class Sizes(NamedTuple):
    """The sizes of a pipeline for entities."""

    width: int
    depth: int
    rows: tuple[int, ...]
    hidden_width: int


SMALL = Sizes(32, 2, (300, 150, 150, 150), 32)
#: Those that spaCy writes into a new config; of 26 arrays with 1.5 million elements.
USUAL = Sizes(96, 4, (5000, 1000, 2500, 2500), 64)


def model(kind: str, sizes: Sizes) -> dict[str, Any]:
    """Return the part of a config that says what the model of a component is."""
    if kind == "textcat":
        return {
            "@architectures": "spacy.TextCatBOW.v3",
            "exclusive_classes": True,
            "ngram_size": 2,
            "no_output_layer": False,
        }
    embed = {
        "@architectures": "spacy.MultiHashEmbed.v2",
        "width": sizes.width,
        "attrs": ["NORM", "PREFIX", "SUFFIX", "SHAPE"],
        "rows": list(sizes.rows),
        "include_static_vectors": False,
    }
    encode = {
        "@architectures": "spacy.MaxoutWindowEncoder.v2",
        "width": sizes.width,
        "depth": sizes.depth,
        "window_size": 1,
        "maxout_pieces": 3,
    }
    return {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": sizes.hidden_width,
        "maxout_pieces": 2,
        "use_upper": True,
        "tok2vec": {"@architectures": "spacy.Tok2Vec.v2", "embed": embed, "encode": encode},
    }


def texts(kind: str, count: int, rng: np.random.Generator) -> list[Doc]:
    """Return texts whose classes share many words, or whose names sometimes stand for something else."""
    vocab, docs = Vocab(), []
    for _ in range(count):
        label = int(rng.integers(3))
        words = [str(word) for word in rng.choice(WORDS[label * 40 : label * 40 + 220], 12)]
        spans = {}
        for place, entity in zip(rng.choice(12, 2, replace=False), NAMES, strict=True):
            words[place] = str(rng.choice(NAMES[entity]))
            if rng.random() < 0.8:
                spans[int(place)] = entity
        doc = Doc(vocab, words=words)
        if kind == "textcat":
            doc.cats = {f"C{k}": float(k == label) for k in range(3)}
        else:
            doc.ents = [Span(doc, place, place + 1, label=entity) for place, entity in spans.items()]
        docs.append(doc)
    return docs


@cache
def corpora(kind: str) -> dict[str, DocBin]:
    """Return a corpus for training and one for evaluation."""
    rng = np.random.default_rng(5)
    return {name: DocBin(docs=texts(kind, count, rng)) for name, count in (("train", 160), ("dev", 60))}


def pipeline_and_examples(kind: str) -> tuple[Any, list[Example]]:
    """Return a pipeline of one component that is not initialized, and examples to train it with."""
    nlp = spacy.blank("en")
    nlp.add_pipe(kind, config={"model": model(kind, SMALL)})
    docs = texts(kind, 16, np.random.default_rng(5))
    return nlp, [Example(nlp.make_doc(doc.text), doc) for doc in docs]


def run(folder: Path, kind: str, optimizer: dict[str, Any], steps: int = 30, sizes: Sizes = SMALL) -> Path:
    """Train, and return the folder of the saved pipelines."""
    folder.mkdir(exist_ok=True)
    nlp = spacy.blank("en")
    nlp.add_pipe(kind, config={"model": model(kind, sizes)})
    config = nlp.config
    config["training"] |= {"optimizer": optimizer, "seed": 3, "max_steps": steps, "eval_frequency": 10}
    config["training"]["batcher"] = {"@batchers": "spacy.batch_by_sequence.v1", "size": 16}
    for name, docs in corpora(kind).items():
        docs.to_disk(folder / f"{name}.spacy")
        config["paths"][name] = str(folder / f"{name}.spacy")
    config.to_disk(folder / "config.cfg")
    with contextlib.redirect_stdout(io.StringIO()):
        train(folder / "config.cfg", folder / "output")
    return folder / "output"


def parameters(pipeline: Path) -> dict[tuple[int, str], Any]:
    """Return the parameters of a saved pipeline's component, by the place of their layer and their name."""
    nlp = spacy.load(pipeline)
    (name,) = nlp.pipe_names
    return {
        (place, param): layer.get_param(param)
        for place, layer in enumerate(nlp.get_pipe(name).model.walk())
        for param in layer.param_names
        if layer.has_param(param)
    }
