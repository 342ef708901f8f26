"""The order of the scripts of examples/ in the gallery, and the way a picture is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: The scripts that show what courses on training networks teach, in their order.
LECTURES = (
    "trajectories.py",
    "momentum.py",
    "adaptive_rates.py",
    "minibatch_noise.py",
    "vanishing_gradients.py",
    "regularization.py",
    "reuse_of_layers.py",
    "pretraining.py",
    "averages.py",
    "continuation.py",
    "batch_norm.py",
    "full_batch_methods.py",
    "character_transformer.py",
)
#: Short programs, which come after them.
PROGRAMS = ("train_mlp.py", "fine_tune.py", "own_rule.py", "dictionary_learning.py", "distributed_digits.py")
#: Modules that the scripts import.
HELPERS = ("data.py", "nets.py", "pictures.py", "setting.py")


class Order:
    """The key by which sphinx-gallery sorts the scripts of a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, name: str) -> int:
        return [*LECTURES, *PROGRAMS].index(name)


def scrape(block: Any, variables: dict[str, Any], gallery_conf: dict[str, Any], **options: Any) -> str:
    """Keep the figures of a block as PNG files, and an animation as a GIF: sphinx-gallery's own would be a video."""
    from matplotlib import pyplot as plt
    from matplotlib.animation import Animation
    from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper

    animations = {value._fig: value for value in variables["example_globals"].values() if isinstance(value, Animation)}
    texts = []
    for number in plt.get_fignums():
        figure = plt.figure(number)
        if not all(ax.has_data() for ax in figure.axes if ax.axison):
            raise ValueError("a figure has empty axes: draw the whole of it in one block, since it is kept at the end")
        if figure in animations:
            path = Path(next(variables["image_path_iterator"])).with_suffix(".gif")
            animations[figure].save(path, writer="pillow", savefig_kwargs={"facecolor": figure.get_facecolor()})
            texts.append(figure_rst([str(path)], gallery_conf["src_dir"]))
            plt.close(figure)
    return "\n".join([*texts, matplotlib_scraper(block, variables, gallery_conf, **options)])
