"""Networks: layers one after the other with a loss at the end."""

from contextlib import contextmanager


class Network:
    """Layers, each taking what the one before returns, and a loss of the last output.

    Parameters
    ----------
    layers : list of layers
    loss_layer : loss, as in `rnnfast.losses`

    Attributes
    ----------
    layers, loss_layer : as given
    recurrent_layers : the layers that carry a state
    params, grads : lists of arrays, in the order of the layers
    """

    def __init__(self, layers, loss_layer):
        self.layers, self.loss_layer = list(layers), loss_layer
        self.recurrent_layers = [layer for layer in self.layers if hasattr(layer, "reset_state")]
        with_loss = [*self.layers, loss_layer]
        self.params = [W for layer in with_loss for W in layer.params]
        self.grads = [dW for layer in with_loss for dW in layer.grads]

    def predict(self, xs):
        """Input of the first layer -> output of the last.

        In language models, ids (N, T) -> logits (N, T, V) of the token that follows each.
        """
        with self._state_kept_on_error():
            for layer in self.layers:
                xs = layer.forward(xs)
        return xs

    def forward(self, xs, ts):
        """Input xs and targets ts -> loss, a float.

        In language models, ids xs and ts, both (N, T) -> mean cross entropy in nats.
        """
        with self._state_kept_on_error():
            return self.loss_layer.forward(self.predict(xs), ts)

    def backward(self, dout=1):
        """Fill `grads` with the gradients of the last forward, times `dout`."""
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)

    def reset_state(self):
        """Let every recurrent layer start its next block from zeros."""
        for layer in self.recurrent_layers:
            layer.reset_state()

    def get_state(self):
        """The carried states, for `set_state`: a tuple per recurrent layer of (N, H) or None."""
        return [layer.get_state() for layer in self.recurrent_layers]

    def set_state(self, states):
        """Carry on from states that `get_state` returned."""
        for layer, state in zip(self.recurrent_layers, states, strict=True):
            layer.set_state(*state)

    @contextmanager
    def carrying_state(self):
        """Within it, a block starts from the state that the block before left, the first from
        zeros; afterwards the layers are as stateful, and in the state, as they were."""
        carried = self.get_state()
        stateful = [layer.stateful for layer in self.recurrent_layers]
        try:
            self.reset_state()
            for layer in self.recurrent_layers:
                layer.stateful = True
            yield
        finally:
            for layer, before in zip(self.recurrent_layers, stateful, strict=True):
                layer.stateful = before
            self.set_state(carried)

    @contextmanager
    def _state_kept_on_error(self):
        """A block that an error ends, such as a target out of range, has not been read."""
        carried = self.get_state()
        try:
            yield
        except Exception:
            self.set_state(carried)
            raise
