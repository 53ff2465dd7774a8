"""Windows and chunks against torch loops that detach, and against each other.

Both ways of windowing, and the double sum.

A copy of every parameter for each step, and an offset at each state, tell torch's share of every
step and ∂L/∂s_t at every t.
"""

from types import SimpleNamespace

import array_api_compat.torch as xp
import numpy as np
import pytest
import torch
from bptt_crosscheck.manual import jacobians
from bptt_crosscheck.manual.cell import HoistedCell
from bptt_crosscheck.manual.cells.gru import GRU
from bptt_crosscheck.manual.cells.lru import LRU
from bptt_crosscheck.manual.cells.lstm import LSTM
from bptt_crosscheck.manual.cells.rnn import RNN
from bptt_crosscheck.manual.cells.slstm import SLSTM
from bptt_crosscheck.manual.through_time import bptt, truncation
from bptt_crosscheck.manual.through_time.network import Network, Projection
from bptt_crosscheck.reference import equations

from tests.closeness import ROUNDING, relative_error

T, B, I, H = 7, 3, 3, 3  # noqa: E741
WINDOWS = (0, 1, 3, T - 2, T - 1, T, T + 5)
CHUNKS = (1, 2, 3, T, T + 1)
MASK = np.array(
    [[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0]], dtype=bool
)


def equation(name, **options):
    return equations.bound_step(name, options)


# cell, its step in torch; None: the cell's own
CELLS = {
    "rnn": (RNN(), equation("rnn", activation="tanh")),
    "lstm": (LSTM(), equation("lstm")),
    "gru-before": (GRU("before"), equation("gru", reset="before")),
    "lru": (LRU(), equation("lru")),
    "slstm": (SLSTM(), equation("slstm")),
    "step form alone": (
        SimpleNamespace(**{n: getattr(LSTM(), n) for n in ("step", "step_backward")}),
        equation("lstm"),
    ),
    "leaky memory": (None, None),
}
every_cell = pytest.mark.parametrize("name", CELLS)


@pytest.fixture
def drawn(name, leaky_memory):
    """(cell, its step in torch, params, initial, x, cotangents), read-only."""
    cell, step = CELLS[name]
    if cell is None:
        cell, step = (
            leaky_memory,
            lambda xp, params, state, x: leaky_memory.step(xp, params, state, x)[0],
        )
    shapes = LSTM() if isinstance(cell, SimpleNamespace) else cell
    rng = np.random.default_rng(5)
    params = {
        key: 0.7 * rng.normal(size=shape) for key, shape in shapes.parameter_shapes(I, H).items()
    }
    initial = {
        key: rng.normal(size=(B, *shape)) + 3 * (key == "n")
        for key, shape in shapes.state_shapes(H).items()
    }
    cotangents = {key: rng.normal(size=(T, *value.shape)) for key, value in initial.items()}
    x = rng.normal(size=(T, B, I))
    for array in (*params.values(), *initial.values(), x, *cotangents.values()):
        array.setflags(write=False)
    return SimpleNamespace(
        cell=cell, step=step, params=params, initial=initial, x=x, cotangents=cotangents
    )


def tape_of(drawn, mask):
    return bptt.forward(drawn.cell, drawn.params, drawn.initial, drawn.x, mask)


class InTorch:
    """One run of the steps first..t at a time, on the same leaves."""

    def __init__(self, drawn, mask):
        self.step, self.mask = (
            drawn.step,
            torch.tensor(np.ones((T, B), bool) if mask is None else mask),
        )
        self.x = torch.tensor(drawn.x, requires_grad=True)
        self.params = {
            key: torch.tensor(np.stack([value] * T), requires_grad=True)
            for key, value in drawn.params.items()
        }
        self.initial = {
            key: torch.tensor(value, requires_grad=True) for key, value in drawn.initial.items()
        }
        self.moved = {
            key: torch.zeros(value.shape, dtype=torch.float64, requires_grad=True)
            for key, value in drawn.cotangents.items()
        }
        self.cotangents = {key: torch.tensor(value) for key, value in drawn.cotangents.items()}

    def advance(self, k, state):
        """s_{k+1} from s_k, moved by an offset of its own."""
        alive = self.mask[k][:, None]
        x = torch.where(alive, self.x[k], 0.0)
        new = self.step(xp, {key: value[k] for key, value in self.params.items()}, state, x)
        return {key: torch.where(alive, new[key], state[key]) + self.moved[key][k] for key in state}

    def loss_at(self, t, state):
        return sum((self.cotangents[key][t] * value).sum() for key, value in state.items())

    def told(self, total):
        """Shares "W" (T, …) and "x" (T, B, ·), and total derivatives "h" (T+1, B, ·), by name."""
        leaves = [*self.params.values(), self.x, *self.initial.values(), *self.moved.values()]
        found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        arrays = [value.numpy() for value in found]
        count, states = len(self.params), len(self.initial)
        first, later = arrays[count + 1 : count + 1 + states], arrays[count + 1 + states :]
        d_state = {
            key: np.concatenate([a[None], b])
            for key, a, b in zip(self.initial, first, later, strict=True)
        }
        return {**dict(zip(self.params, arrays, strict=False)), "x": arrays[count], **d_state}


def windowed_by_torch(drawn, window, mask):
    """Every loss run again from the detached state K + 1 steps before it.

    From s_0 itself where the window reaches it.
    """
    torch_, before = InTorch(drawn, mask), []
    state, total = torch_.initial, 0.0
    for t in range(T):
        before.append(state)
        state = torch_.advance(t, state)
        first = max(0, t - window)
        own = {key: value if first == 0 else value.detach() for key, value in before[first].items()}
        for k in range(first, t + 1):
            own = torch_.advance(k, own)
        total = total + torch_.loss_at(t, own)
    return torch_.told(total)


def chunked_by_torch(drawn, chunk, mask):
    """One run, the state detached after every k steps."""
    torch_ = InTorch(drawn, mask)
    state, total = torch_.initial, 0.0
    for t in range(T):
        if t and t % chunk == 0:
            state = {key: value.detach() for key, value in state.items()}
        state = torch_.advance(t, state)
        total = total + torch_.loss_at(t, state)
    return torch_.told(total)


def named(found, apart):
    """Shares and totals under torch's names; the whole as "sum W"."""
    return {**apart.params, "x": apart.x, **apart.d_state} | {
        f"sum {key}": value for key, value in found.params.items()
    }


def summed(told, params):
    return told | {f"sum {key}": told[key].sum(axis=0) for key in params}


def wrong(found, expected):
    """The names in which the two differ, each step by its own norm."""
    assert found.keys() == expected.keys()
    return {
        name
        for name, value in expected.items()
        if not relative_error(found[name], value, separately=int(not name.startswith("sum")))
        <= ROUNDING
    }


@every_cell
def test_windows_equal_torch_with_the_state_detached_before_each(drawn):
    for mask in (None, MASK):
        tape = tape_of(drawn, mask)
        previous = None
        for window in WINDOWS:
            given = (drawn.cell, drawn.params, tape, drawn.cotangents, window)
            found, apart = truncation.backward(*given), truncation.shares(*given)
            told = windowed_by_torch(drawn, window, mask)
            assert wrong(named(found, apart), summed(told, drawn.params)) == set()
            assert relative_error(found.x, told["x"], separately=1) <= ROUNDING
            assert wrong(found.d_state, {key: told[key] for key in found.d_state}) == set()
            assert (found.delta is not None) == isinstance(drawn.cell, HoistedCell)
            if previous is not None and window < T:
                off = wrong(previous, summed(told, drawn.params))
                assert off >= set(drawn.initial), "another window is another gradient"
            previous = named(found, apart)


@every_cell
def test_by_ages_and_by_blocks_are_the_same_totals(drawn):
    for mask in (None, MASK):
        tape = tape_of(drawn, mask)
        for window in WINDOWS:
            given = (drawn.cell, drawn.params, tape, drawn.cotangents, window)
            ages, blocks = truncation.totals_by_ages(*given), truncation.totals_by_blocks(*given)
            told = windowed_by_torch(drawn, window, mask)
            expected = {key: told[key] for key in drawn.initial}
            assert wrong(ages, expected) == set()
            assert wrong(blocks, expected) == set()
            one_more = truncation.totals_by_blocks(*given[:-1], window + 1)
            assert (wrong(ages, one_more) == set()) is (window >= T - 1), (
                "K and K + 1 differ until nothing is cut"
            )


@every_cell
def test_windows_end_at_the_end_of_the_sequence_and_d_0_is_one_jacobian_from_d_1(drawn):
    """(1) with the products written out, its window cut at T.

    The total of s_0 by (2), where (1) has a term less.
    """
    tape, window = tape_of(drawn, None), 2
    given = (drawn.cell, drawn.params, tape, drawn.cotangents, window)
    local = jacobians.state_jacobians(drawn.cell, drawn.params, tape)
    e = jacobians.flatten_state({key: drawn.cotangents[key] for key in tape.states})
    expected = np.zeros((T + 1, *e.shape[1:]))
    for k in range(1, T + 1):
        product = np.broadcast_to(np.eye(e.shape[-1]), local.shape[1:])
        for t in range(k, min(k + window, T) + 1):
            product = local[t - 1] @ product if t > k else product
            expected[k] += np.einsum("bij,bi->bj", product, e[t - 1])
    expected[0] = np.einsum("bij,bi->bj", local[0], expected[1])
    by_1 = sum(
        np.einsum("bij,bi->bj", jacobians.products_to_end(local[:t])[0], e[t - 1])
        for t in range(1, window + 1)
    )
    for totals in (truncation.totals_by_ages(*given), truncation.totals_by_blocks(*given)):
        found = jacobians.flatten_state(totals)
        assert relative_error(found, expected, separately=1) <= ROUNDING
        assert relative_error(found[0], by_1) > 1e-3


@every_cell
def test_a_window_or_a_chunk_over_everything_is_the_plain_walk_bit_by_bit(drawn):
    tape = tape_of(drawn, MASK)
    given = (drawn.cell, drawn.params, tape, drawn.cotangents)
    plain, plain_shares = bptt.backward(*given), bptt.shares(*given)
    for window in (T - 1, T, T + 5):
        found, apart = truncation.backward(*given, window), truncation.shares(*given, window)
        for mine, theirs in ((found, plain), (apart, plain_shares)):
            for key in drawn.params:
                np.testing.assert_array_equal(mine.params[key], theirs.params[key])
            np.testing.assert_array_equal(mine.x, theirs.x)
            for key in drawn.initial:
                np.testing.assert_array_equal(mine.d_state[key], theirs.d_state[key])
    for chunk in (T, T + 1, 100):
        found = bptt.backward(*given, chunk)
        for mine, theirs in (
            (found.params, plain.params),
            (found.d_state, plain.d_state),
            ({"x": found.x}, {"x": plain.x}),
        ):
            for key, value in theirs.items():
                np.testing.assert_array_equal(mine[key], value)
    for cut in (truncation.backward(*given, T - 2), bptt.backward(*given, T - 1)):
        assert all((cut.d_state[key][0] != plain.d_state[key][0]).any() for key in drawn.initial)


@every_cell
def test_windows_equal_the_double_sum(drawn):
    for mask in (None, MASK):
        tape = tape_of(drawn, mask)
        given = (drawn.cell, drawn.params, tape, drawn.cotangents)
        for window in WINDOWS:
            expected = {
                f"sum {key}": value for key, value in bptt.double_sum(*given, window).items()
            }
            found = {
                f"sum {key}": value
                for key, value in truncation.backward(*given, window).params.items()
            }
            assert wrong(found, expected) == set()
        cut = {f"sum {key}": value for key, value in bptt.double_sum(*given, window=2).items()}
        one_less = {
            f"sum {key}": value
            for key, value in truncation.backward(*given, window=1).params.items()
        }
        assert wrong(one_less, cut) == set(cut), "K − 1, as where a loop visits K steps for K + 1"


def test_the_cheaper_way_is_taken(monkeypatch):
    """By blocks where K is beyond some times S and there is a Jacobian.

    Both give the same, so only the call tells.
    """
    taken = []
    for way in ("totals_by_ages", "totals_by_blocks"):
        monkeypatch.setattr(truncation, way, lambda *arguments, way=way: taken.append(way))
    rng = np.random.default_rng(0)
    params = {key: rng.normal(size=shape) for key, shape in RNN().parameter_shapes(I, 1).items()}
    tape = bptt.forward(RNN(), params, {"h": np.zeros((B, 1))}, rng.normal(size=(T, B, I)))
    alone = SimpleNamespace(step=RNN().step, step_backward=RNN().step_backward)
    for cell, window in (
        (RNN(), truncation.BLOCKS_PAY),
        (RNN(), truncation.BLOCKS_PAY + 1),
        (alone, truncation.BLOCKS_PAY + 1),
    ):
        truncation.windowed_totals(cell, params, tape, {"h": np.ones((T, B, 1))}, window)
    assert taken == ["totals_by_ages", "totals_by_blocks", "totals_by_ages"]


@every_cell
def test_chunks_equal_torch_with_the_state_detached_at_their_borders(drawn):
    for mask in (None, MASK):
        tape = tape_of(drawn, mask)
        for chunk in CHUNKS:
            given = (drawn.cell, drawn.params, tape, drawn.cotangents, chunk)
            found = named(bptt.backward(*given), bptt.shares(*given))
            assert wrong(found, summed(chunked_by_torch(drawn, chunk, mask), drawn.params)) == set()
            shifted = summed(chunked_by_torch(drawn, chunk + 1, mask), drawn.params)
            assert (wrong(found, shifted) == set()) is (chunk >= T), (
                "the border one step later is another gradient"
            )


@pytest.mark.parametrize("name", ["lstm", "leaky memory"])
def test_windows_and_chunks_out_of_range_are_refused(drawn):
    given = (drawn.cell, drawn.params, tape_of(drawn, None), drawn.cotangents)
    for cut in (truncation.backward, truncation.shares):
        with pytest.raises(ValueError, match="a window of -1 steps: at least 0"):
            cut(*given, -1)
    with pytest.raises(ValueError, match="a window of -3 steps: at least 0"):
        bptt.double_sum(*given, window=-3)
    for cut in (bptt.backward, bptt.shares):
        for chunk in (0, -2):
            with pytest.raises(ValueError, match=f"a chunk of {chunk} steps: at least 1"):
                cut(*given, chunk)
    assert (truncation.backward(*given, 0).x == bptt.backward(*given, 1).x).all(), (
        "the least allowed: both cut at every step"
    )


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ({"window": 2, "layers": 2}, "a window cuts one layer in one direction"),
        ({"window": 2, "bidirectional": True}, "a window cuts one layer in one direction"),
        ({"chunk": 2, "bidirectional": True}, "chunks need one direction"),
        ({"chunk": 2, "window": 2}, "not by both"),
    ],
)
def test_a_network_refuses_cuts_that_mean_nothing(cut, said):
    with pytest.raises(ValueError, match=said):
        Network(LSTM(), Projection(), ("h", "c"), **cut)
    assert Network(LSTM(), Projection(), ("h", "c"), layers=2, chunk=2).chunk == 2
