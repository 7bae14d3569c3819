"""The step into autograd: one function for all layers of a module."""

from collections.abc import Sequence
from typing import Any

import torch

from . import stack
from .stack import Call, Owner, Tensor, reason_against

BY_PYTORCH = {
    "rnn": torch._VF.rnn_tanh,
    "rnn_relu": torch._VF.rnn_relu,
    "lstm_ifgo": torch._VF.lstm,
    "gru_rzn": torch._VF.gru,
}
compiler = torch._C._dynamo.eval_frame.get_eval_frame_callback
_UNDISTURBED: dict[Any, Any] = {}


def undisturbed(function: Any) -> Any:
    """A function of which torch.compile does not try to compile any part."""
    if function not in _UNDISTURBED:  # made when a compiler is there, which takes long to import
        _UNDISTURBED[function] = torch.compiler.disable(function)
    return _UNDISTURBED[function]


def run(
    call: Call,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Outputs, and last states; the initial ones are none or all. Nothing is kept where nothing
    requires a gradient."""
    if torch.is_grad_enabled():
        for tensor in (x, *weights, *states):
            if tensor.requires_grad:
                outputs: tuple[Tensor, ...] = apply(call, masks, x, *states, *weights)
                return outputs
    return stack.forward(call, x, states, weights, masks)


class Stack(torch.autograd.Function):  # type: ignore[misc]
    """`stack.forward` with its gradient.

    The kernels' memory belongs to the storage of a tensor that is saved, for autograd frees those
    after backward, though the graph may stay. Whoever has hooks for saved tensors may give back
    others than those that were saved: then forward is computed once more. (An attribute of the
    tensor itself would be pickled with it, and views of it would not have it.)
    """

    @staticmethod
    def forward(
        ctx: Any, call: Call, masks: Sequence[Tensor], x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        count = len(tensors) - len(call.addresses)
        states, weights = tensors[:count], tensors[count:]
        # not an empty one, for hooks may ask saved tensors for their largest number, for one
        owner, of_call = torch.zeros(1), Owner(call)
        owner.untyped_storage().rnnfast = of_call
        outputs = stack.forward(call, x, states, weights, masks, of_call.memory)
        ctx.call, ctx.states = call, count
        ctx.save_for_backward(owner, x, *tensors, *masks)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        # Where a step of training is compiled, the compiler may look at this very function, too.
        compiled = torch.compiler.is_compiling() or compiler() is not None
        of = undisturbed(gradients) if compiled else gradients
        found: tuple[Tensor | None, ...] = of(ctx, grads)
        return found


# That of the class below torch.autograd.Function, whose own looks at its arguments for torch.func.
apply = super(torch.autograd.Function, Stack).apply


def gradients(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Those of all arguments of `Stack.forward`."""
    call, count = ctx.call, ctx.states
    owner, x, *tensors = ctx.saved_tensors
    end = count + len(call.addresses)
    states, weights, masks = tensors[:count], tensors[count:end], tensors[end:]
    _, _, *needs = ctx.needs_input_grad
    given = [grad for grad in grads if grad is not None]
    if not given:
        return (None, None, *(None for _ in needs))
    of_forward = getattr(owner.untyped_storage(), "rnnfast", None)
    if of_forward and not of_forward.memory.fits(x):
        of_forward = None
    if of_forward is None or call.addresses != [weight.data_ptr() for weight in weights]:
        call.weights = None  # what stands at their addresses may be something else by now
    looked_at = given if call.weights else [*given, x, *tensors]
    if torch.is_grad_enabled() or any(reason_against(tensor, x) for tensor in looked_at):
        return (None, None, *by_pytorch(call, x, states, weights, masks, grads, needs))
    if of_forward is None:
        of_forward = Owner(call)
        stack.forward(call, x, states, weights, masks, of_forward.memory)
    memory = of_forward.memory
    need_x, *others = needs
    ends, of_states, of_weights = grads[1:], others[:count], others[count:]
    with memory.lock:
        dx, dstates, dweights = stack.backward(
            call, memory, grads[0], ends, x, weights, masks, need_x, of_states, of_weights
        )
    return (None, None, dx, *dstates, *dweights)


def by_pytorch(
    call: Call,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> Sequence[Tensor | None]:
    """Gradients that have gradients themselves: forward once more, by PyTorch's operations."""
    again = torch.is_grad_enabled()
    inputs = [x, *states, *weights]
    with torch.enable_grad():
        # others of the same value: a gradient must not pass by what one input owes to another
        inputs = [
            tensor if not need else tensor.view_as(tensor) if tensor.requires_grad else leaf(tensor)
            for tensor, need in zip(inputs, needs, strict=True)
        ]
        count = 1 + len(states)
        outputs = forward_by_pytorch(call, inputs[0], inputs[1:count], inputs[count:], masks)
    given = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in given],
            [tensor for tensor, need in zip(inputs, needs, strict=True) if need],
            [grad for _, grad in given],
            create_graph=again,
            allow_unused=True,
        )
    )
    return [next(found) if need else None for need in needs]


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def forward_by_pytorch(
    call: Call,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """`stack.forward` by PyTorch's operations, one layer at a time, since masks are given."""
    time_first = x
    if not call.batched:
        time_first = x.unsqueeze(1)
        states = [state.unsqueeze(1) for state in states]
    elif call.batch_sizes is None and call.batch_first:
        time_first = x.transpose(0, 1)
    if not states:
        zeros = x.new_zeros((call.layers * call.directions, call.N, call.hidden))
        states = [zeros] * len(call.cell.states)
    each = len(weights) // call.layers
    D, last = call.directions, []
    for layer in range(call.layers):
        first = [state[layer * D : (layer + 1) * D] for state in states]
        hx = first if len(first) > 1 else first[0]
        Ws = list(weights[layer * each : (layer + 1) * each])
        options = (call.bias, 1, 0.0, True, D == 2)
        function = BY_PYTORCH[call.cell.name]
        if call.batch_sizes is None:
            time_first, *ends = function(time_first, hx, Ws, *options, False)
        else:
            sizes = torch.from_numpy(call.batch_sizes)
            time_first, *ends = function(time_first, sizes, hx, Ws, *options)
        last.append(ends)
        if masks and layer < call.layers - 1:
            time_first = time_first * masks[layer]
    ends = [torch.cat(state) for state in zip(*last, strict=True)]
    if not call.batched:
        return (time_first.squeeze(1), *(state.squeeze(1) for state in ends))
    if call.batch_sizes is None and call.batch_first:
        return (time_first.transpose(0, 1), *ends)
    return (time_first, *ends)
