"""The commands of ``python -m fastopt``."""

#: Okabe and Ito's palette for colour-blind readers, without its yellow, which is too pale for a line on white.
COLOURS = ("#000000", "#56b4e9", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7")
