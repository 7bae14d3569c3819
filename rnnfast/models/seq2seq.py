"""Encoder and decoder: models that read one sequence and write another.

Letters: N batch rows, S steps of the encoder, T of the decoder, D vector size, H hidden size, V
vocabulary size (that of the target, where there are two), B beams, R rows of a step: N, or N*B.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, overload

import numpy as np
from numpy.typing import DTypeLike

from .._checks import (
    as_array,
    as_bool,
    as_count,
    as_float_dtype,
    as_generator,
    as_ids,
    as_lengths,
    as_precision,
    as_weights,
    check_shape,
    is_number,
)
from .._ops import Ops
from .._types import Array, ArrayLike, Ids, Precision, Seed, Shape
from ..archive import require_names
from ..cells import CELLS
from ..errors import InputError
from ..layers import Attention, TimeEmbedding
from ..layers.cell import CELL_OPTIONS
from ..layers.initial import init_by_name
from ..layers.recurrent import TIME_LAYERS, TimeDirected
from ..losses import TimeAffineWithLoss
from .decoding import beam_search, greedy, require_numbers
from .network import Call, Network, States
from .saving import (
    Classes,
    by_layer,
    field,
    known,
    layer_from,
    require_constructor,
    require_one_precision,
)


class Encoded(NamedTuple):
    """What the decoder has of what the encoder has read."""

    hs: Array  # (N, S, H), 0 beyond lengths
    h: Array  # (N, H), the last of each row
    lengths: Ids | None


@known
class Seq2seq(Network):
    """An encoder, and a decoder that starts from the encoder's last h (Sutskever et al. 2014).

    The encoder is an embedding and a recurrent layer; the decoder is another of each, and an affine
    layer. Where the cell has a c, the decoder's starts from zeros, as in the textbook. Initial
    weights are the textbook's too: normal, divided by 100 for embeddings and by the square root of
    their number of rows elsewhere, drawn in the order of the layers; biases are 0.

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H of both, encoder and decoder.
    target_vocab_size : int or None, keyword-only (like all that follow)
        V of the decoder, where it has a vocabulary of its own.
    cell : "lstm", "gru", "gru_reset_after", "rnn" or "rnn_relu"
        That of both recurrent layers.
    dtype : float32 or float64
    precision : "bfloat16", or the dtype, or None
        Of the products of both recurrent layers, the affine layer and its loss, as in
        `LanguageModel`; attention has products of its own, whose operands stay as they are.
    rng : numpy.random.Generator or RandomState, int, or None
        Where the weights are drawn from. A whole number seeds a generator of its own; None is
        NumPy's global state, as in the textbook.
    ops : module with the arithmetic, see `rnnfast.layers`

    Attributes
    ----------
    vocab_size, target_vocab_size, hidden_size, cell : as given
    precision : "bfloat16", "float32" or "float64"
    affine : the last layer and the loss, a `TimeAffineWithLoss`
    params, grads : lists of arrays, in the order of the layers

    Notes
    -----
    All methods take `lengths`, integers (N,) in 0..S: row n of xs (N, S) is xs[n, :lengths[n]], and
    what stands beyond is not looked at. Where a length is 0, the decoder starts from zeros.

    Every row starts anew: states that the layers carry from call to call have no influence.

    Examples
    --------
    >>> import rnnfast
    >>> model = rnnfast.Seq2seq(5, 8, 16, rng=0)
    >>> questions, answers = [[0, 1, 2], [2, 1, 0]], [[4, 2, 3], [4, 0, 3]]
    >>> optimizer = rnnfast.Adam(0.01)
    >>> for _ in range(100):
    ...     loss = model.forward(questions, answers)
    ...     model.backward()
    ...     optimizer.update(model.params, model.grads)
    >>> model.generate(questions, 4, 2)
    array([[2, 3],
           [0, 3]])
    """

    vocab_size: int
    target_vocab_size: int
    hidden_size: int
    cell: str
    affine: TimeAffineWithLoss
    _encoder: TimeDirected
    _decoder: TimeDirected
    _read: Shape
    _loss_name = "decoder.affine"

    def __init__(
        self,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        *,
        target_vocab_size: int | None = None,
        cell: str = "lstm",
        dtype: DTypeLike = np.float32,
        precision: Precision | None = None,
        rng: Seed = None,
        ops: Ops | None = None,
    ) -> None:
        sizes = {
            "vocab_size": vocab_size,
            "wordvec_size": wordvec_size,
            "hidden_size": hidden_size,
            "target_vocab_size": vocab_size if target_vocab_size is None else target_vocab_size,
        }
        sizes = {name: as_count(name, size) for name, size in sizes.items()}
        if not isinstance(cell, str) or cell not in CELLS:
            raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")
        dtype, draw = as_float_dtype("dtype", dtype), init_by_name("textbook")
        products = {"precision": as_precision(precision, dtype)}
        # NumPy's module has what a generator has, and draws from the global state
        numbers: Any = np.random if rng is None else as_generator(rng)
        V, D, H, V_target = sizes.values()
        inputs, outputs = self._decoder_sizes(D, H)
        arrays = [
            *draw.embedding(V, D, numbers),
            *draw.recurrent(CELLS[cell], D, H, numbers),
            *draw.embedding(V_target, D, numbers),
            *draw.recurrent(CELLS[cell], inputs, H, numbers),
            *draw.affine(outputs, V_target, numbers),
        ]
        names = self.param_shapes(**sizes, cell=cell)
        params = {name: array.astype(dtype) for name, array in zip(names, arrays, strict=True)}
        self._assemble(params, cell, products, {"stateful": True, **products}, products, ops)

    @classmethod
    def param_shapes(
        cls,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        target_vocab_size: int | None = None,
        cell: str = "lstm",
    ) -> dict[str, Shape]:
        """Shapes of the parameters of a model of these sizes, by name, in their order."""
        D, H = wordvec_size, hidden_size
        columns = CELLS[cell].G * H
        inputs, outputs = cls._decoder_sizes(D, H)
        V = {"encoder": vocab_size, "decoder": target_vocab_size or vocab_size}
        shapes: dict[str, Shape] = {}
        for part, rows in (("encoder", D), ("decoder", inputs)):
            shapes[f"{part}.embedding.W"] = V[part], D
            of_matrix = {"Wx": (rows, columns), "Wh": (H, columns)}
            for name in CELLS[cell].weights:
                shapes[f"{part}.recurrent.{name}"] = of_matrix.get(name, (columns,))
        shapes["decoder.affine.W"] = outputs, V["decoder"]
        shapes["decoder.affine.b"] = (V["decoder"],)
        return shapes

    @classmethod
    def _decoder_sizes(cls, D: int, H: int) -> tuple[int, int]:
        """How many numbers the decoder's recurrent layer takes at a step, and how many its affine
        layer."""
        return D, H

    def _assemble(
        self,
        params: Mapping[str, Array],
        cell: str,
        encoder: Mapping[str, Any],
        decoder: Mapping[str, Any],
        affine: Mapping[str, Any],
        ops: Ops | None,
    ) -> None:
        """Make the layers of weights by name, and of what `config` of each has returned."""
        weights = by_layer(params)

        def layer_of(name: str, cls: type, config: Mapping[str, Any]) -> Any:
            return layer_from(name, cls, weights[name], config, ops)

        layers: dict[str, Any] = {}
        for part, config in (("encoder", encoder), ("decoder", decoder)):
            name = f"{part}.embedding"
            layers[name] = layer_of(name, TimeEmbedding, {})
            name = f"{part}.recurrent"
            layers[name] = layer_of(name, TIME_LAYERS[cell], CELL_OPTIONS[cell] | {**config})
        self._encoder, self._decoder = layers["encoder.recurrent"], layers["decoder.recurrent"]
        self.affine = layer_of(self._loss_name, TimeAffineWithLoss, affine)
        self.cell, self.hidden_size = cell, self._encoder.hidden_size
        self.vocab_size = len(params["encoder.embedding.W"])
        self.target_vocab_size = len(params["decoder.embedding.W"])
        inputs: dict[str, str | Sequence[str]] = {
            "decoder.embedding": "decoder_xs",
            "decoder.recurrent": ("decoder.embedding", "encoder.recurrent"),
        }
        more, inputs_of_more = self._more_layers(ops)
        super().__init__(layers | more, self.affine, inputs=inputs | inputs_of_more)
        # what the layers take besides is the model's
        self._infer_takes = frozenset({"decoder_xs", "lengths"})
        self._takes = self._forward_takes = self._infer_takes | {"need_gradient"}

    def _more_layers(self, ops: Ops | None) -> tuple[dict[str, Any], dict[str, Sequence[str]]]:
        """Layers after the decoder's recurrent one, and what they take, by name."""
        return {}, {}

    @property
    def ops(self) -> Ops:
        """The module that the arithmetic is taken from; setting it tells the layers."""
        return self.affine.ops

    @ops.setter
    def ops(self, ops: Ops) -> None:
        self._use(ops)

    @property
    def precision(self) -> Precision:
        """What operands of products have: "bfloat16", or the dtype of the weights."""
        return self.affine.precision

    def config(self) -> dict[str, Any]:
        """Keyword arguments of `from_params`, as JSON has them: all of the model but its weights.

        Sizes are not among them: the weights have them. For subclasses, see `Network.config`.
        """
        require_constructor(self, 1, 1, 1, target_vocab_size=1, cell=self.cell)
        return {
            "cell": self.cell,
            "encoder": self._encoder.config(),
            "decoder": self._decoder.config(),
            "affine": self.affine.config(),
        }

    @classmethod
    def from_params(
        cls,
        params: Mapping[str, Array],
        *,
        ops: Ops | None = None,
        classes: Classes | None = None,
        **config: Any,
    ) -> Self:
        """A model of these weights, by name, and what `config` of another has returned.

        `ops` as in `load`; there are no other `classes`. Raises InputError, TypeError and
        ValueError where names or shapes are not those of one model, such as an encoder and a
        decoder of different sizes.
        """
        if cls.config is not Seq2seq.config:  # that of a subclass is for its constructor
            return super().from_params(params, ops=ops, classes=classes, **config)
        cell = field(config, "cell", str)
        if cell not in CELLS:
            raise InputError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r}")
        encoder, decoder, affine = (
            field(config, name, dict) for name in ("encoder", "decoder", "affine")
        )
        require_names(("cell", "encoder", "decoder", "affine"), config)
        require_names(cls.param_shapes(1, 1, 1, cell=cell), params)
        as_weights(**params)
        parts = ("encoder", "decoder")
        for part in parts:
            check_shape(f"{part}.embedding.W", params[f"{part}.embedding.W"], ("V", "D"))
            check_shape(f"{part}.recurrent.Wh", params[f"{part}.recurrent.Wh"], ("H", "G*H"))
        (V, D), (V_target, _) = (params[f"{part}.embedding.W"].shape for part in parts)
        H, H_decoder = (len(params[f"{part}.recurrent.Wh"]) for part in parts)
        if H_decoder != H:
            raise InputError(
                f"decoder.recurrent.Wh: expected H = {H} as the encoder has, got {H_decoder}; "
                "the decoder starts from the encoder's last h"
            )
        for name, shape in cls.param_shapes(V, D, H, V_target, cell).items():
            check_shape(name, params[name], shape, "encoder and decoder have the same D and H")
        model = cls.__new__(cls)
        model._assemble(params, cell, encoder, decoder, affine, ops)
        require_one_precision([model._encoder, model._decoder, model.affine])
        if model._decoder.reverse or not model._decoder.stateful:
            raise InputError(
                "decoder: expected a layer with stateful=True and reverse=False, which starts from "
                f"the encoder's h and writes from the first token to the last, got {decoder}"
            )
        return model

    def forward(
        self,
        xs: Any,
        ts: Any,
        *,
        lengths: ArrayLike | None = None,
        need_gradient: bool = True,
        **options: Any,
    ) -> float:
        """Questions xs (N, S) and answers ts (N, T+1) -> mean cross entropy in nats, a float.

        Parameters
        ----------
        xs : ids (N, S) of the encoder's vocabulary
        ts : ids (N, T+1) of the decoder's vocabulary
            The decoder reads ts[:, :-1], of which the first is a start token, and is to predict
            ts[:, 1:]. There -1 (`affine.ignore_label`) marks a target to leave out, such as those
            beyond the end of an answer; the decoder reads the token 0 in place of a label that is
            no token.
        lengths : integers (N,), keyword-only (like what follows)
            Of the rows of xs; see the notes of the class.
        need_gradient : bool
            False keeps nothing for `backward`, which cannot follow.

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit; nothing has changed then.
        """
        ids = self._checked_answers(ts, len(_two_axes(xs)))
        known = (ids >= 0) & (ids < self.target_vocab_size)
        decoder_xs = np.where(known, ids, 0)[:, :-1]
        return super().forward(
            xs, ids[:, 1:], need_gradient=need_gradient, lengths=lengths,
            decoder_xs=decoder_xs, **options,
        )  # fmt: skip

    def predict(self, xs: Any, **options: Any) -> Array:
        """Questions xs (N, S) and, by the name `decoder_xs`, what the decoder reads, ids (N, T),
        a start token first -> logits (N, T, V) of the token that follows each.

        `lengths` and `need_gradient` as in `forward`. To look at what a model attends to, predict
        what it has written.
        """
        return super().predict(xs, **options)

    def infer(
        self, xs: Any, states: Sequence[Array | None] | None = None, **options: Any
    ) -> tuple[Array, States]:
        """What `predict` returns, with nothing kept, and the states after it of both recurrent
        layers, the encoder first; several threads may call it at once.

        `states` must be None: every row starts anew.
        """
        if states is not None:
            raise ValueError(
                "states: expected None, since the encoder starts from zeros and the decoder from "
                f"what the encoder has read, got {type(states).__name__}"
            )
        self._check_options(options, self._infer_takes)
        outputs, after = self._read_and_write(xs, options, keep=False)
        return self.affine.infer(outputs), after

    def _checked_questions(self, xs: Any, lengths: ArrayLike | None) -> tuple[Ids, Ids | None]:
        """Ids (N, S), 0 beyond lengths, and these."""
        xs, used, steps = _two_axes(xs), None, None
        if lengths is not None:
            steps = as_lengths("lengths", lengths, *xs.shape)
            used = np.arange(xs.shape[1]) < steps[:, None]
        return as_ids("xs", xs, self.vocab_size, ("N", "S"), used=used), steps

    def _checked_answers(self, ts: Any, rows: int) -> Ids:
        """Ids (N, T+1), each row beginning with a token."""
        V = self.target_vocab_size
        ids = as_ids("ts", ts, V, (rows, "T+1"), self.affine.ignore_label)
        if ids.shape[1] < 2:
            raise ValueError(
                "ts: expected a start token and at least one target in every row, got rows of "
                f"{ids.shape[1]}"
            )
        started = (ids[:, 0] >= 0) & (ids[:, 0] < V)
        if not started.all():
            row = int(np.argmin(started))
            raise ValueError(
                f"ts: expected every row to begin with a start token in 0..{V - 1}, got "
                f"{ids[row, 0]} at position ({row}, 0)"
            )
        return ids

    def _outputs(self, xs: Any, options: dict[str, Any], call: Call) -> Array:
        return self.affine.infer(self._loss_input(xs, options))

    def _loss_input(self, xs: Any, options: dict[str, Any]) -> Array:
        """What the loss takes, which has the affine layer in it."""
        keep = options.get("need_gradient", True)
        return self._read_and_write(xs, options, keep=keep)[0]

    def _read_and_write(
        self, xs: Any, options: dict[str, Any], *, keep: bool
    ) -> tuple[Array, States]:
        """What the affine layer takes, and the states of both recurrent layers."""
        shape = len(_two_axes(xs)), "T"
        ids = as_ids("decoder_xs", options["decoder_xs"], self.target_vocab_size, shape)
        encoded, states = self._encode(xs, options.get("lengths"), keep)
        outputs, after = self._decode(ids, self._started(encoded), encoded, keep)
        return outputs, [states, after]

    def _encode(self, xs: Any, lengths: ArrayLike | None, keep: bool) -> tuple[Encoded, Array]:
        """What the decoder has of xs, and the encoder's states (S, N, H)."""
        ids, steps = self._checked_questions(xs, lengths)
        vectors, index = _distinct(self.layers[0], ids, keep)
        if keep:
            self._read = ids.shape
        hs, states = _run(self._encoder, vectors, None, keep, index=index, lengths=steps)
        return Encoded(hs, states[0], steps), states

    def _started(self, encoded: Encoded) -> Array:
        """States (S, N, H) that the decoder starts from."""
        states = np.zeros((self._decoder.cell.S, *encoded.h.shape), encoded.h.dtype)
        states[0] = encoded.h
        return states

    def _decode(self, ids: Ids, states: Array, encoded: Encoded, keep: bool) -> tuple[Array, Array]:
        """Ids (R, T), and states before them -> what the affine layer takes, states after them.

        Of R = N*B rows, those of one row of the encoder stand next to each other.
        """
        vectors, index = _distinct(self.layers[2], ids, keep)
        return _run(self._decoder, vectors, states, keep, index=index)

    def _decode_backward(self, dout: Array, sparse: bool) -> tuple[Array, Array | None]:
        """Gradient of what `_decode` returned -> that of the encoder's last h, and of its hs."""
        self.layers[2].backward(self._decoder.backward(dout), sparse=sparse)
        return _there(self._decoder.dh), None

    def backward(self, dout: float = 1, *, sparse: bool = False) -> None:
        """Fill `grads` with the gradients of the last forward, times `dout`; see `Network`."""
        self._require_good_arrays()
        dh, dhs = self._decode_backward(self.affine.backward(dout), sparse)
        if dhs is None:  # zeros that take no memory
            dhs = np.broadcast_to(np.zeros((), dh.dtype), (*self._read, self.hidden_size))
        self.layers[0].backward(self._encoder.backward(dhs, dh=dh), sparse=sparse)

    @overload
    def generate(
        self,
        xs: ArrayLike,
        start_id: int,
        length: int,
        *,
        lengths: ArrayLike | None = None,
        stop_id: int | None = None,
        beams: int = 1,
        length_penalty: float = 0.0,
        return_scores: Literal[False] = False,
    ) -> Ids: ...
    @overload
    def generate(
        self,
        xs: ArrayLike,
        start_id: int,
        length: int,
        *,
        lengths: ArrayLike | None = None,
        stop_id: int | None = None,
        beams: int = 1,
        length_penalty: float = 0.0,
        return_scores: Literal[True],
    ) -> tuple[Ids, Array]: ...
    def generate(
        self,
        xs: ArrayLike,
        start_id: int,
        length: int,
        *,
        lengths: ArrayLike | None = None,
        stop_id: int | None = None,
        beams: int = 1,
        length_penalty: float = 0.0,
        return_scores: bool = False,
    ) -> Ids | tuple[Ids, Array]:
        """Answers to all questions at once: the likeliest token each time, or beam search.

        Layers compute as in evaluation, nothing that they keep changes, and several threads may
        generate at once.

        Parameters
        ----------
        xs : ids (N, S)
        start_id : int
            What the decoder reads first.
        length : int
            Tokens of each answer; 0 is allowed.
        lengths : integers (N,), keyword-only (like all that follow)
            Of the rows of xs; see the notes of the class.
        stop_id : int or None
            The token that ends an answer; whatever follows it in its row is this token again.
        beams : int
            How many beginnings of an answer are kept at every step. With 1, an answer is the
            likeliest token each time; with more, a likelier answer may be found.
        length_penalty : float
            Answers are compared by their log probability over their number of tokens, that of
            `stop_id` included, to this power: 0 compares the probabilities of whole answers, 1 the
            means by token. Without `stop_id`, and with one beam, it changes scores only.
        return_scores : bool

        Returns
        -------
        ids : array (N, length), int64, without the start token
        scores : array (N,), float64, if `return_scores`
            What answers are compared by, in nats.

        Raises
        ------
        TypeError, ValueError
            For arguments that do not fit.
        InputError
            Where the model's logits are not finite numbers.
        """
        first = _as_token("start_id", start_id, self.target_vocab_size)
        length = as_count("length", length, least=0)
        stop = None if stop_id is None else _as_token("stop_id", stop_id, self.target_vocab_size)
        beams = as_count("beams", beams)
        if not (is_number(length_penalty) and 0 <= length_penalty < np.inf):
            raise ValueError(
                f"length_penalty: expected a finite number of at least 0, got {length_penalty!r}"
            )
        return_scores = as_bool("return_scores", return_scores)
        encoded, _ = self._encode(xs, lengths, keep=False)

        def step(ids: Ids, states: Array) -> tuple[Array, Array]:
            outputs, states = self._decode(ids[:, None], states, encoded, keep=False)
            logits = self.affine.infer(outputs)[:, 0]
            require_numbers(np.isfinite(logits).all())
            return logits, states

        states = self._started(encoded)
        if beams == 1 and not return_scores:
            return greedy(step, states, first, length, stop)
        ids, scores = beam_search(step, states, first, length, stop, beams, float(length_penalty))
        return (ids, scores) if return_scores else ids


@known
class PeekySeq2seq(Seq2seq):
    """A `Seq2seq` whose decoder sees the encoder's last h at every step (Cho et al. 2014).

    It stands before the vector that the decoder's recurrent layer takes, and before the h that the
    affine layer takes, as in the textbook. Everything else is as in `Seq2seq`.
    """

    @classmethod
    def _decoder_sizes(cls, D: int, H: int) -> tuple[int, int]:
        return H + D, 2 * H

    def _decode(self, ids: Ids, states: Array, encoded: Encoded, keep: bool) -> tuple[Array, Array]:
        embedding: TimeEmbedding = self.layers[2]
        vectors = embedding.forward(ids) if keep else embedding.infer(ids)
        R, T = ids.shape
        peeked = encoded.h.repeat(R // len(encoded.h), axis=0)[:, None].repeat(T, axis=1)
        hs, after = _run(self._decoder, np.concatenate((peeked, vectors), 2), states, keep)
        return np.concatenate((peeked, hs), 2), after

    def _decode_backward(self, dout: Array, sparse: bool) -> tuple[Array, Array | None]:
        H = self.hidden_size
        dxs = self._decoder.backward(dout[:, :, H:])
        self.layers[2].backward(dxs[:, :, H:], sparse=sparse)
        dh = _there(self._decoder.dh)
        return dh + dout[:, :, :H].sum(axis=1) + dxs[:, :, :H].sum(axis=1), None


@known
class AttentionSeq2seq(Seq2seq):
    """A `Seq2seq` whose decoder attends to all h of the encoder (Luong et al. 2015).

    The affine layer takes the context that `Attention` makes for a step, then the decoder's h, as
    in the textbook. Everything else is as in `Seq2seq`.

    Attributes
    ----------
    attention : `Attention`, whose `weights` (N, T, S) are those of the last `forward` or `predict`

    Examples
    --------
    What the model looked at when it wrote an answer:

    >>> import numpy as np, rnnfast
    >>> model = rnnfast.AttentionSeq2seq(5, 8, 16, rng=0)
    >>> question = [[0, 1, 2]]
    >>> answer = model.generate(question, start_id=4, length=2)
    >>> _ = model.predict(question, decoder_xs=np.insert(answer, 0, 4, axis=1)[:, :-1])
    >>> model.attention.weights.shape
    (1, 2, 3)
    """

    attention: Attention

    @classmethod
    def _decoder_sizes(cls, D: int, H: int) -> tuple[int, int]:
        return D, 2 * H

    def _more_layers(self, ops: Ops | None) -> tuple[dict[str, Any], dict[str, Sequence[str]]]:
        self.attention = Attention(ops=ops)
        name = "decoder.attention"
        return {name: self.attention}, {name: ("encoder.recurrent", "decoder.recurrent")}

    def _decode(self, ids: Ids, states: Array, encoded: Encoded, keep: bool) -> tuple[Array, Array]:
        hs, after = super()._decode(ids, states, encoded, keep)
        attend = self.attention.forward if keep else self.attention.infer
        # the beams of a row are to attention what steps are
        queries = hs.reshape(len(encoded.h), -1, self.hidden_size)
        contexts = attend(encoded.hs, queries, encoded.lengths)
        return np.concatenate((contexts.reshape(hs.shape), hs), 2), after

    def _decode_backward(self, dout: Array, sparse: bool) -> tuple[Array, Array | None]:
        H = self.hidden_size
        denc, ddec = self.attention.backward(dout[:, :, :H])
        dh, _ = super()._decode_backward(dout[:, :, H:] + ddec, sparse)
        return dh, denc


def _distinct(embedding: TimeEmbedding, ids: Ids, keep: bool) -> tuple[Array, Ids]:
    """Vectors of the tokens that occur, and where: what a recurrent layer takes with an index."""
    return embedding.forward_distinct(ids) if keep else embedding.infer_distinct(ids)


def _run(
    recurrent: TimeDirected, xs: Array, states: Array | None, keep: bool, **options: Any
) -> tuple[Array, Array]:
    """Outputs of a recurrent layer from these states, None being zeros, and the states after."""
    if not keep:
        return recurrent.infer(xs, states, **options)
    recurrent.set_state(*(states if states is not None else [None]))
    hs = recurrent.forward(xs, **options)
    return hs, np.stack([_there(state) for state in recurrent.get_state()])


def _there(array: Array | None) -> Array:
    """What a layer has after a call, and only then."""
    assert array is not None
    return array


def _two_axes(xs: Any) -> Array:
    """xs as an array (N, S)."""
    ids = as_array("xs", xs)
    check_shape("xs", ids, ("N", "S"))
    return ids


def _as_token(name: str, token: object, vocab_size: int) -> int:
    """The id of a token, as an int."""
    if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
        raise TypeError(f"{name}: expected the id of a token, a whole number, got {token!r}")
    if not 0 <= token < vocab_size:
        raise ValueError(
            f"{name}: expected the id of a token in 0..{vocab_size - 1}, got {token}; "
            "check the vocabulary that it comes from"
        )
    return int(token)
