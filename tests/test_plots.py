"""Pictures of a run and of what is inside a network, and the command that draws them from a checkpoint."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from click.testing import CliRunner

import fastrnn
from fastrnn.cli.app import app
from fastrnn.training import Evaluation, Settings, Trainer, plots

PNG = b"\x89PNG\r\n\x1a\n"
CELLS = {"rnn": fastrnn.RNN, "lstm": fastrnn.LSTM, "gru": fastrnn.GRU}
PROMPT = ["--prompt", "is $x_1^2$\n\u65e5\u672c"]
TEXT = "so $x_1^2$ is\ta \u65e5\u672c\n" * 60


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved from here on, in place of their files."""
    saved = []
    monkeypatch.setattr(plots, "save_figure", lambda path, figure: saved.append(figure))
    return saved


@pytest.fixture
def axes():
    _, ((axes,),) = plots.new_figure()
    return axes


def inside_of(cell, steps=5, units=3, scale=1.0):
    """Every gate and state (T, H) of a layer with weights of that scale."""
    rnn = CELLS[cell](2, units, dtype="float64", seed=0)
    for p in rnn.parameters.values():
        p *= scale
    x = np.random.default_rng(0).standard_normal((steps, 1, 2))
    return {name.removesuffix("_l0"): values[:, 0] for name, values in rnn.trace(x).items()}


def heat_maps(figure):
    """The image of every heat map by its title."""
    return {axes.get_title(): axes.images[0] for axes in figure.axes if axes.images}


@pytest.mark.parametrize(
    ("cell", "titles"),
    [
        ("lstm", ["input gate i", "forget gate f", "cell candidate g", "output gate o"]),
        ("gru", ["reset gate r", "update gate z", "candidate n"]),
    ],
)
def test_c5_gates_have_the_range_of_their_function(figures, cell, titles):
    inside = inside_of(cell)
    plots.plot_gates("gates.png", inside, list("abcde"), title="$x_1$")
    (figure,) = figures
    maps = heat_maps(figure)
    assert list(maps) == titles
    assert figure.get_suptitle() == "$x_1$"
    for title, image in maps.items():
        letter = title[-1]
        signed = letter in "gn"
        assert image.get_clim() == ((-1, 1) if signed else (0, 1))
        assert image.get_cmap().name == ("RdBu_r" if signed else "cividis")
        np.testing.assert_array_equal(image.get_array(), inside[letter].T)
        assert image.get_extent() == [-0.5, 4.5, -0.5, 2.5]  # units are counted from 0, as in the arrays
        assert image.colorbar.ax.get_ylabel() == f"value of {letter}"


@pytest.mark.parametrize("cell", CELLS)
def test_c2_c5_states_are_symmetric_around_zero_and_drawn_as_lines(figures, cell):
    inside = inside_of(cell)
    plots.plot_hidden("hidden.png", inside, list("abcde"))
    maps = heat_maps(figures[0])
    assert list(maps) == ["hidden state h", "cell state c"][: 2 if cell == "lstm" else 1]
    assert all(image.get_clim() == (-1, 1) for image in maps.values())
    lines = next(axes for axes in figures[0].axes if axes.get_title() == "hidden state h, a line per unit")
    told = {line.get_label(): line.get_ydata() for line in lines.get_lines() if not line.get_label().startswith("_")}
    assert list(told) == ["0", "1", "2"]
    np.testing.assert_array_equal(np.transpose(list(told.values())), inside["h"])


def test_c5_a_cell_state_beyond_one_widens_its_range_on_both_sides(axes):
    plots.draw_heat_map(axes, np.array([[0.5, -3.0], [1.0, 2.0]]), ["a", "b"], "c")
    assert axes.images[0].get_clim() == (-3, 3)
    assert axes.images[0].colorbar.extend == "neither"


def test_a_few_units_far_beyond_the_others_do_not_widen_their_range(axes):
    values = np.linspace(-2, 2, 8 * 32).reshape(8, 32)
    values[:, 5] = 63
    plots.draw_heat_map(axes, values, list("abcdefgh"), "c")
    low, high = axes.images[0].get_clim()
    assert 2 <= high == -low <= 6
    assert axes.images[0].colorbar.extend == "both"  # tips tell that there is more


def test_units_are_counted_in_whole_numbers(axes):
    plots.draw_heat_map(axes, np.zeros((4, 1)), list("abcd"), "h")
    assert all(tick == int(tick) for tick in axes.get_yticks())


def test_of_many_units_those_that_vary_most_are_told_apart(axes):
    values = np.zeros((6, 40))
    chosen = [3, 5, 8, 13, 21, 22, 30, 31, 35, 39]
    values[::2, chosen] = np.arange(1, 11)
    plots.draw_units(axes, values, list("abcdef"))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [str(unit) for unit in chosen]


def test_every_series_is_drawn(axes):
    series = {f"series {k}": np.full(3, k) for k in range(9)}
    plots.draw_steps(axes, series, list("abc"))
    assert {line.get_label(): line.get_ydata()[0] for line in axes.get_lines()} == {f"series {k}": k for k in range(9)}


def test_labels_are_no_mathematics_and_blanks_are_seen(axes, tmp_path):
    labels = ["$", "_", "$x^2$", "\\frac", " ", "\n", "\t", "\u65e5"]
    plots.draw_steps(axes, {"h": np.arange(8)}, labels)
    texts = axes.get_xticklabels()
    assert [text.get_text() for text in texts] == [*labels[:4], "\u2423", "\u21b5", "\u21e5", "\u65e5"]
    assert not any(text.get_parse_math() for text in texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the font has no such glyph, and nobody needs to know
        plots.save_figure(tmp_path / "labels.png", axes.figure)
    assert (tmp_path / "labels.png").read_bytes().startswith(PNG)


def test_labels_are_all_written_or_none(figures, axes):
    text = ["abcdefgh"[k % 8] for k in range(160)]
    inside = inside_of("lstm", steps=160)
    plots.plot_hidden("hidden.png", inside, text)
    plots.plot_gates("gates.png", inside, text)
    panels = [panel for figure in figures for panel in figure.axes if panel.get_xlabel()]
    assert len(panels) == 3 + 4
    for panel in panels:
        assert [label.get_text() for label in panel.get_xticklabels()] == text
        assert panel.get_xlabel() == "time step, by its input"
    plots.draw_steps(axes, {"h": np.zeros(1000)}, ["x"] * 1000)
    assert "x" not in {label.get_text() for label in axes.get_xticklabels()}
    assert axes.get_xlabel() == "time step"


def test_panels_over_one_another_share_their_steps_and_legends_cover_nothing():
    figure, ((above,), (below,)) = plots.new_figure(2)
    plots.draw_steps(above, {"input": np.arange(5.0)}, list("abcde"))
    plots.legend_beside(above)
    plots.draw_units(below, np.zeros((5, 2)), list("abcde"))
    figure.draw_without_rendering()
    assert above.get_xlim() == below.get_xlim()
    for panel in (above, below):
        assert panel.get_legend().get_window_extent().x0 >= panel.get_window_extent().x1


@pytest.mark.parametrize("n", [0, 4, 6])
def test_every_step_has_a_label(figures, n):
    message = f"labels has {n} inputs; expected one of each step, T = 5, and at least one"
    for plot, inside in ((plots.plot_gates, inside_of("lstm")), (plots.plot_hidden, inside_of("rnn"))):
        with pytest.raises(ValueError, match=message):
            plot("x.png", inside, ["a"] * n)
    assert not figures


def test_a_plain_rnn_has_no_gates(figures):
    with pytest.raises(ValueError, match=r"inside has \['h'\]; expected at least one gate, and a plain RNN has none"):
        plots.plot_gates("gates.png", inside_of("rnn"), list("abcde"))
    assert not figures


def test_losses_are_drawn_in_bits(figures):
    losses = np.linspace(3, 1, 120)
    plots.plot_losses("loss.png", losses, [Evaluation(60, 2.0), Evaluation(120, 1.5)], token="word")
    ((axes,),) = [figure.axes for figure in figures]
    each, mean, held_out = axes.get_lines()
    np.testing.assert_allclose(each.get_ydata(), losses / np.log(2))
    np.testing.assert_allclose(mean.get_ydata(), np.interp(mean.get_xdata(), np.arange(1, 121), losses / np.log(2)))
    np.testing.assert_allclose(held_out.get_xydata(), [[60, 2 / np.log(2)], [120, 1.5 / np.log(2)]])
    assert axes.get_ylabel() == "loss (bits per word)"
    assert mean.get_label() == "training, mean of 2 steps"
    assert held_out.get_label() == "held out, best 2.16 at step 120"


@pytest.mark.parametrize("losses", [[], [2.0]])
def test_a_run_without_an_evaluation_has_a_picture(tmp_path, losses):
    plots.plot_losses(tmp_path / "loss.png", losses, [])
    assert (tmp_path / "loss.png").read_bytes().startswith(PNG)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Write what a run with such settings saves, and return the path."""

    def write(**settings):
        path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
        trainer = Trainer(TEXT, Settings(**{"hidden_size": 4, "seq_length": 8, "batch_size": 2, "steps": 2} | settings))
        list(trainer.run())
        trainer.save(path)
        return path

    return write


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"cell": "rnn"}, []),
        ({"cell": "lstm", "steps": 1, "evaluate_every": 9}, []),
        ({"cell": "gru", "num_layers": 2}, PROMPT),
        ({"level": "word", "windows": "lines"}, PROMPT),
    ],
    ids=["rnn", "lstm", "gru", "words"],
)
def test_the_command_draws_what_there_is(checkpoint, tmp_path, settings, options):
    pictures = ["loss.png", "hidden.png", *["gates.png"][: settings.get("cell") != "rnn"]]
    command = ["plot", str(checkpoint(**settings)), "--out", str(tmp_path / "new"), *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.output.split() == [str(tmp_path / "new" / name) for name in pictures]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(pictures)
    assert all(path.read_bytes().startswith(PNG) for path in (tmp_path / "new").iterdir())


def test_the_command_draws_the_layer_and_prompt_it_is_told(checkpoint, tmp_path, figures):
    path = checkpoint(cell="gru", num_layers=2)
    for layer in (1, 2):
        result = CliRunner().invoke(app, ["plot", str(path), "--layer", str(layer), "--prompt", "so is", "--seed", "1"])
        assert result.exit_code == 0, result.output
    model, tokenizer = fastrnn.training.load_model(path)
    trace = model.trace(tokenizer.encode("so is")[:, None])
    for k in range(2):
        _, hidden, gates = figures[3 * k : 3 * k + 3]
        assert hidden.get_suptitle().endswith(f"layer {k + 1}")
        np.testing.assert_array_equal(heat_maps(hidden)["hidden state h"].get_array(), trace[f"h_l{k}"][:, 0].T)
        np.testing.assert_array_equal(heat_maps(gates)["update gate z"].get_array(), trace[f"z_l{k}"][:, 0].T)
        assert [text.get_text() for text in hidden.axes[0].get_xticklabels()] == ["s", "o", "\u2423", "i", "s"]
