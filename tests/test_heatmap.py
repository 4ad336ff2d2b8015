"""Heat maps: the numbers stand in their cells, missing cells say so, all share one scale."""

import matplotlib
import numpy
import pandas
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from opencompass_llada.report import heatmap
from opencompass_llada.report.drawing import DOTS_PER_INCH, save_figure
from opencompass_llada.report.heatmap import Grid, draw_heat_maps

LENGTHS, DEPTHS = (256, 512, 1024), (0, 50, 100)


def make_grid(missing=(), trained_length=512, title="model, no scaling", num_samples=4):
    scores = pandas.DataFrame(
        {length: [float(10 * i + j) for j in range(3)] for i, length in enumerate(LENGTHS)},
        index=DEPTHS,
    )
    for length, depth in missing:
        scores.loc[depth, length] = float("nan")
    return Grid(
        model="model",
        title=title,
        metric="accuracy",
        unit="tokens of model",
        scores=scores,
        num_samples=num_samples,
        trained_length=trained_length,
    )


def texts(axes):
    return {
        (text.get_position()[0], text.get_position()[1]): text.get_text() for text in axes.texts
    }


def test_values_stand_at_their_length_and_depth(tmp_path):
    figure = draw_heat_maps([make_grid()])
    (path,) = save_figure(figure, tmp_path / "one.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    axes = figure.axes[0]
    written = texts(axes)
    image = axes.images[0].get_array()
    for column in range(3):
        for row in range(3):
            assert written[(column, row)] == str(10 * column + row)
            assert image[row, column] == 10 * column + row
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["256", "512", "1,024"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "50", "100"]
    assert "tokens" in figure.get_supxlabel()
    assert "%" in figure.get_supylabel()
    assert "%" in figure.axes[1].get_ylabel()


def test_missing_cells_are_hatched_and_named_and_have_no_colour():
    axes = draw_heat_maps([make_grid(missing=[(512, 50)])]).axes[0]
    assert texts(axes)[(1, 1)] == "missing"
    hatched = [patch for patch in axes.patches if patch.get_hatch()]
    assert [patch.get_xy() for patch in hatched] == [(0.5, 0.5)]
    image = axes.images[0].get_array()
    assert image.mask[1, 1] if hasattr(image, "mask") else image[1, 1] != image[1, 1]


@pytest.mark.parametrize(
    ("trained_length", "where"),
    [(256, 0.5), (512, 1.5), (700, 1.5), (1024, None), (100, None), (None, None)],
)
def test_line_stands_after_the_last_trained_length(trained_length, where):
    figure = draw_heat_maps([make_grid(trained_length=trained_length)])
    positions = {line.get_xdata()[0] for line in figure.axes[0].lines}
    assert positions == (set() if where is None else {where})


def test_small_multiples_share_one_scale_and_keep_full_names(tmp_path):
    title = "a model with a very long name, diffusion_ntk target_length=131072"
    grids = [make_grid(), make_grid(title=title), make_grid(), make_grid(missing=[(256, 0)])]
    figure = draw_heat_maps(grids)
    (path,) = save_figure(figure, tmp_path / "all.png")
    assert path.stat().st_size > 10_000
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 4
    assert {axes.images[0].get_clim() for axes in panels} == {(0, 100)}
    assert panels[1].get_title().replace("\n", " ") == title
    assert texts(panels[3])[(0, 0)] == "missing"


def test_all_cells_missing_is_still_a_figure(tmp_path):
    grid = make_grid(missing=[(length, depth) for length in LENGTHS for depth in DEPTHS])
    figure = draw_heat_maps([grid])
    save_figure(figure, tmp_path / "one.png")
    assert list(texts(figure.axes[0]).values()).count("missing") == 9


def test_colours_grow_darker_with_the_score():
    import matplotlib

    colours = matplotlib.colormaps[heatmap.COLOUR_MAP]([0.0, 0.25, 0.5, 0.75, 1.0])
    luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in colours]
    assert luminance == sorted(luminance, reverse=True)


def test_pyplot_stays_untouched(tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    save_figure(draw_heat_maps([make_grid()]), tmp_path / "one.png")
    assert plt.get_fignums() == before


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_figure_is_drawn_once_and_is_what_savefig_writes(tmp_path, monkeypatch, suffix):
    draws, draw = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda self, own: draws.append(self) or draw(self, own))
    (path,) = save_figure(draw_heat_maps([make_grid()]), tmp_path / f"one.{suffix}")
    assert len(draws) == 1
    style = {"svg.hashsalt": "one", "svg.fonttype": "none", "pdf.fonttype": 42}
    metadata = {{"svg": "Date", "pdf": "CreationDate"}.get(suffix, "Software"): None}
    other = tmp_path / f"other.{suffix}"
    with matplotlib.rc_context(style):
        figure = draw_heat_maps([make_grid()])
        figure.savefig(other, metadata=metadata, dpi=DOTS_PER_INCH)
    if suffix == "png":
        assert numpy.array_equal(imread(path), imread(other))
    else:
        assert path.read_bytes() == other.read_bytes()
