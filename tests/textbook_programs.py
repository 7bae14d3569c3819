"""Programs in the style of the textbook's chapters 5 to 8, on small data: texts that import from
`common`, so that tests run them with layers of the library and with layers of plain NumPy.

Each leaves in `losses` those of its steps; `corpus`, `V` and the data are there when it starts.
"""

SIMPLE = """
from common.time_layers import *


class SimpleRnnlm:
    def __init__(self, vocab_size, wordvec_size, hidden_size):
        V, D, H = vocab_size, wordvec_size, hidden_size
        rn = np.random.randn
        self.layers = [
            TimeEmbedding((rn(V, D) / 100).astype("f")),
            TimeRNN(
                (rn(D, H) / np.sqrt(D)).astype("f"),
                (rn(H, H) / np.sqrt(H)).astype("f"),
                np.zeros(H).astype("f"),
                stateful=True,
            ),
            TimeAffine((rn(H, V) / np.sqrt(H)).astype("f"), np.zeros(V).astype("f")),
        ]
        self.loss_layer = TimeSoftmaxWithLoss()
        self.rnn_layer = self.layers[1]
        self.params, self.grads = [], []
        for layer in self.layers:
            self.params += layer.params
            self.grads += layer.grads

    def forward(self, xs, ts):
        for layer in self.layers:
            xs = layer.forward(xs)
        return self.loss_layer.forward(xs, ts)

    def backward(self, dout=1):
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return dout

    def reset_state(self):
        self.rnn_layer.reset_state()
"""

CUSTOM_LOOP = (
    SIMPLE
    + """
from common.optimizer import SGD

xs, ts = corpus[:-1], corpus[1:]
batch_size, time_size, time_idx = 4, 5, 0
model, optimizer, losses = SimpleRnnlm(V, 6, 8), SGD(0.5), []
offsets = [i * (len(xs) // batch_size) for i in range(batch_size)]
for epoch in range(3):
    for iters in range(len(xs) // (batch_size * time_size)):
        batch_x = np.empty((batch_size, time_size), dtype="i")
        batch_t = np.empty((batch_size, time_size), dtype="i")
        for t in range(time_size):
            for i, offset in enumerate(offsets):
                batch_x[i, t] = xs[(offset + time_idx) % len(xs)]
                batch_t[i, t] = ts[(offset + time_idx) % len(xs)]
            time_idx += 1
        losses.append(model.forward(batch_x, batch_t))
        model.backward()
        optimizer.update(model.params, model.grads)
"""
)

TRAINER = (
    SIMPLE
    + """
from common.optimizer import SGD
from common.trainer import RnnlmTrainer

trainer = RnnlmTrainer(SimpleRnnlm(V, 6, 8), SGD(0.5))
trainer.fit(corpus[:-1], corpus[1:], 3, 4, 5, eval_interval=1)
losses = np.log(trainer.ppl_list)
trainer.plot(ylim=(0, 20))
"""
)

RNNLM = """
from common.time_layers import *
from common.base_model import BaseModel


class Rnnlm(BaseModel):
    def __init__(self, vocab_size=11, wordvec_size=6, hidden_size=8):
        V, D, H = vocab_size, wordvec_size, hidden_size
        rn = np.random.randn
        self.layers = [
            TimeEmbedding((rn(V, D) / 100).astype("f")),
            TimeLSTM(
                (rn(D, 4 * H) / np.sqrt(D)).astype("f"),
                (rn(H, 4 * H) / np.sqrt(H)).astype("f"),
                np.zeros(4 * H).astype("f"),
                stateful=True,
            ),
            TimeAffine((rn(H, V) / np.sqrt(H)).astype("f"), np.zeros(V).astype("f")),
        ]
        self.loss_layer = TimeSoftmaxWithLoss()
        self.lstm_layer = self.layers[1]
        self.params, self.grads = [], []
        for layer in self.layers:
            self.params += layer.params
            self.grads += layer.grads

    def predict(self, xs):
        for layer in self.layers:
            xs = layer.forward(xs)
        return xs

    def forward(self, xs, ts):
        return self.loss_layer.forward(self.predict(xs), ts)

    def backward(self, dout=1):
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return dout

    def reset_state(self):
        self.lstm_layer.reset_state()
"""

LSTM_TRAINING = (
    RNNLM
    + """
from common.optimizer import SGD
from common.trainer import RnnlmTrainer
from common.util import eval_perplexity

model = Rnnlm()
trainer = RnnlmTrainer(model, SGD(5.0))
trainer.fit(corpus[:-1], corpus[1:], 3, 4, 5, max_grad=0.25, eval_interval=1)
losses = [*np.log(trainer.ppl_list)]
model.reset_state()
losses.append(np.log(eval_perplexity(model, corpus, 4, 5)))
model.save_params()
again = Rnnlm()
again.load_params()
losses.append(np.log(eval_perplexity(again, corpus, 4, 5)))
"""
)

BETTER = """
from common.time_layers import *
from common.np import *
from common.base_model import BaseModel


class BetterRnnlm(BaseModel):
    def __init__(self, vocab_size=11, wordvec_size=8, hidden_size=8, dropout_ratio=0.5):
        V, D, H = vocab_size, wordvec_size, hidden_size
        rn = np.random.randn
        embed_W = (rn(V, D) / 100).astype("f")
        lstms = [
            TimeLSTM(
                (rn(rows, 4 * H) / np.sqrt(rows)).astype("f"),
                (rn(H, 4 * H) / np.sqrt(H)).astype("f"),
                np.zeros(4 * H).astype("f"),
                stateful=True,
            )
            for rows in (D, H)
        ]
        self.layers = [
            TimeEmbedding(embed_W),
            TimeDropout(dropout_ratio),
            lstms[0],
            TimeDropout(dropout_ratio),
            lstms[1],
            TimeDropout(dropout_ratio),
            TimeAffine(embed_W.T, np.zeros(V).astype("f")),
        ]
        self.loss_layer = TimeSoftmaxWithLoss()
        self.lstm_layers = [self.layers[2], self.layers[4]]
        self.drop_layers = [self.layers[1], self.layers[3], self.layers[5]]
        self.params, self.grads = [], []
        for layer in self.layers:
            self.params += layer.params
            self.grads += layer.grads

    def predict(self, xs, train_flg=False):
        for layer in self.drop_layers:
            layer.train_flg = train_flg
        for layer in self.layers:
            xs = layer.forward(xs)
        return xs

    def forward(self, xs, ts, train_flg=True):
        return self.loss_layer.forward(self.predict(xs, train_flg), ts)

    def backward(self, dout=1):
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return dout

    def reset_state(self):
        for layer in self.lstm_layers:
            layer.reset_state()
"""

BETTER_TRAINING = (
    BETTER
    + """
from common import config
from common.optimizer import SGD
from common.trainer import RnnlmTrainer
from common.util import eval_perplexity

lr = 5.0
model, optimizer = BetterRnnlm(), SGD(lr)
trainer = RnnlmTrainer(model, optimizer)
best, losses, rates = float("inf"), [], []
for epoch in range(4):
    trainer.fit(corpus[:-1], corpus[1:], max_epoch=1, batch_size=4, time_size=5, max_grad=0.25,
                eval_interval=1)
    losses += [*np.log(trainer.ppl_list)]
    model.reset_state()
    ppl = eval_perplexity(model, corpus, 4, 5)
    losses.append(np.log(ppl))
    if best > ppl:
        best = ppl
        model.save_params()
    else:
        lr /= 4.0
        optimizer.lr = lr
    rates.append(optimizer.lr)
    model.reset_state()
assert not config.GPU
"""
)

GENERATION = (
    RNNLM
    + BETTER
    + """
from common.functions import softmax


def generate(self, start_id, skip_ids=None, sample_size=20):
    word_ids, x = [start_id], start_id
    while len(word_ids) < sample_size:
        p = softmax(self.predict(np.array(x).reshape(1, 1)).flatten())
        sampled = np.random.choice(len(p), size=1, p=p)
        if (skip_ids is None) or (sampled not in skip_ids):
            x = sampled
            word_ids.append(int(x[0]))
    return word_ids


class RnnlmGen(Rnnlm):
    generate = generate

    def get_state(self):
        return self.lstm_layer.h, self.lstm_layer.c

    def set_state(self, state):
        self.lstm_layer.set_state(*state)


class BetterRnnlmGen(BetterRnnlm):
    generate = generate

    def get_state(self):
        return [(layer.h, layer.c) for layer in self.lstm_layers]

    def set_state(self, states):
        for layer, state in zip(self.lstm_layers, states):
            layer.set_state(*state)


texts, losses = [], []
for model in (RnnlmGen(), BetterRnnlmGen()):
    model.save_params("params.pkl")
    model.load_params("params.pkl")
    texts.append(model.generate(1, [0, 3]))
    state = model.get_state()
    for x in (4, 5):
        model.predict(np.array(x).reshape(1, 1))
    texts.append(model.generate(6))
    model.set_state(state)  # the batch that follows starts from the state of one row
    losses.append(model.forward(corpus[:12].reshape(3, 4), corpus[1:13].reshape(3, 4)))
"""
)

SEQ2SEQ = """
from common.time_layers import *
from common.base_model import BaseModel


def weights(rows, columns):
    return (np.random.randn(rows, columns) / np.sqrt(rows)).astype("f")


class Encoder:
    def __init__(self, V, D, H):
        self.embed = TimeEmbedding((np.random.randn(V, D) / 100).astype("f"))
        self.lstm = TimeLSTM(
            weights(D, 4 * H), weights(H, 4 * H), np.zeros(4 * H).astype("f"), stateful=False
        )
        self.params = self.embed.params + self.lstm.params
        self.grads = self.embed.grads + self.lstm.grads
        self.hs = None

    def forward(self, xs):
        self.hs = self.lstm.forward(self.embed.forward(xs))
        return self.hs[:, -1, :]

    def backward(self, dh):
        dhs = np.zeros_like(self.hs)
        dhs[:, -1, :] = dh
        return self.embed.backward(self.lstm.backward(dhs))


class Decoder:
    rows = staticmethod(lambda D, H: (D, H))

    def __init__(self, V, D, H):
        into_lstm, into_affine = self.rows(D, H)
        self.embed = TimeEmbedding((np.random.randn(V, D) / 100).astype("f"))
        self.lstm = TimeLSTM(
            weights(into_lstm, 4 * H), weights(H, 4 * H), np.zeros(4 * H).astype("f"), stateful=True
        )
        self.affine = TimeAffine(weights(into_affine, V), np.zeros(V).astype("f"))
        self.params, self.grads = [], []
        for layer in (self.embed, self.lstm, self.affine):
            self.params += layer.params
            self.grads += layer.grads

    def forward(self, xs, h):
        self.lstm.set_state(h)
        return self.affine.forward(self.lstm.forward(self.embed.forward(xs)))

    def backward(self, dscore):
        self.embed.backward(self.lstm.backward(self.affine.backward(dscore)))
        return self.lstm.dh

    def score(self, x, h):
        return self.affine.forward(self.lstm.forward(self.embed.forward(x)))

    def begin(self, h):
        self.lstm.set_state(h)

    def generate(self, h, start_id, sample_size):
        sampled, sample_id = [], start_id
        self.begin(h)
        for _ in range(sample_size):
            score = self.score(np.array(sample_id).reshape((1, 1)), h)
            sample_id = np.argmax(score.flatten())
            sampled.append(int(sample_id))
        return sampled


class PeekyDecoder(Decoder):
    rows = staticmethod(lambda D, H: (H + D, H + H))

    def forward(self, xs, h):
        (N, T), (N, H) = xs.shape, h.shape
        self.lstm.set_state(h)
        hs = np.repeat(h, T, axis=0).reshape(N, T, H)
        out = np.concatenate((hs, self.embed.forward(xs)), axis=2)
        out = np.concatenate((hs, self.lstm.forward(out)), axis=2)
        self.cache = H
        return self.affine.forward(out)

    def backward(self, dscore):
        H = self.cache
        dout = self.affine.backward(dscore)
        dhs, dout = dout[:, :, :H], self.lstm.backward(dout[:, :, H:])
        self.embed.backward(dout[:, :, H:])
        return self.lstm.dh + np.sum(dhs + dout[:, :, :H], axis=1)

    def score(self, x, h):
        peeky = h.reshape(1, 1, -1)
        out = np.concatenate((peeky, self.embed.forward(x)), axis=2)
        return self.affine.forward(np.concatenate((peeky, self.lstm.forward(out)), axis=2))


class Seq2seq(BaseModel):
    parts = Encoder, Decoder

    def __init__(self, V, D, H):
        self.encoder, self.decoder = (part(V, D, H) for part in self.parts)
        self.softmax = TimeSoftmaxWithLoss()
        self.params = [*self.encoder.params, *self.decoder.params]
        self.grads = [*self.encoder.grads, *self.decoder.grads]

    def forward(self, xs, ts):
        score = self.decoder.forward(ts[:, :-1], self.encoder.forward(xs))
        return self.softmax.forward(score, ts[:, 1:])

    def backward(self, dout=1):
        return self.encoder.backward(self.decoder.backward(self.softmax.backward(dout)))

    def generate(self, xs, start_id, sample_size):
        return self.decoder.generate(self.encoder.forward(xs), start_id, sample_size)


class PeekySeq2seq(Seq2seq):
    parts = Encoder, PeekyDecoder
"""

LEARNING = """
from common.optimizer import Adam
from common.trainer import Trainer
from common.util import eval_seq2seq

questions = questions[:, ::-1]
trainer, accuracies = Trainer(model, Adam()), []
for epoch in range(2):
    trainer.fit(questions, answers, max_epoch=1, batch_size=8, max_grad=5.0, eval_interval=1)
    right = 0
    for i in range(4):
        right += eval_seq2seq(model, questions[[i]], answers[[i]], id_to_char, i < 2, True)
    accuracies.append(right / 4)
losses = trainer.loss_list
"""

ADDITION = SEQ2SEQ + "model = Seq2seq(V, 6, 8)\n" + LEARNING
PEEKY = SEQ2SEQ + "model = PeekySeq2seq(V, 6, 8)\n" + LEARNING

ATTENTION = (
    SEQ2SEQ
    + """
from common.layers import Softmax


class TimeAttention:
    def __init__(self):
        self.params, self.grads, self.attention_weights = [], [], None

    def forward(self, hs_enc, hs_dec):
        out = np.empty_like(hs_dec)
        self.hs, self.dec, self.softmaxes, self.attention_weights = hs_enc, hs_dec, [], []
        for t in range(hs_dec.shape[1]):
            softmax = Softmax()
            a = softmax.forward(np.sum(hs_enc * hs_dec[:, t, None, :], axis=2))
            out[:, t, :] = np.sum(hs_enc * a[:, :, None], axis=1)
            self.softmaxes.append(softmax)
            self.attention_weights.append(a)
        return out

    def backward(self, dout):
        dhs_enc, dhs_dec = 0, np.empty_like(dout)
        for t, softmax in enumerate(self.softmaxes):
            a, d = self.attention_weights[t], dout[:, t, None, :]
            ds = softmax.backward(np.sum(d * self.hs, axis=2))[:, :, None]
            dhs_enc = dhs_enc + d * a[:, :, None] + ds * self.dec[:, t, None, :]
            dhs_dec[:, t, :] = np.sum(ds * self.hs, axis=1)
        return dhs_enc, dhs_dec


class AttentionEncoder(Encoder):
    def forward(self, xs):
        return self.lstm.forward(self.embed.forward(xs))

    def backward(self, dhs):
        return self.embed.backward(self.lstm.backward(dhs))


class AttentionDecoder(Decoder):
    rows = staticmethod(lambda D, H: (D, 2 * H))

    def __init__(self, V, D, H):
        super().__init__(V, D, H)
        self.attention = TimeAttention()

    def forward(self, xs, enc_hs):
        self.begin(enc_hs)
        return self.score(xs, enc_hs)

    def backward(self, dscore):
        dc, ddec = np.split(self.affine.backward(dscore), 2, axis=2)
        denc_hs, ddec_hs = self.attention.backward(dc)
        dout = self.lstm.backward(ddec + ddec_hs)
        denc_hs[:, -1] += self.lstm.dh
        self.embed.backward(dout)
        return denc_hs

    def begin(self, enc_hs):
        self.lstm.set_state(enc_hs[:, -1])

    def score(self, x, enc_hs):
        dec_hs = self.lstm.forward(self.embed.forward(x))
        c = self.attention.forward(enc_hs, dec_hs)
        return self.affine.forward(np.concatenate((c, dec_hs), axis=2))


class AttentionSeq2seq(Seq2seq):
    parts = AttentionEncoder, AttentionDecoder


model = AttentionSeq2seq(V, 6, 8)
"""
    + LEARNING
    + """
model.save_params()
model.load_params()
model.forward(questions[[0]], answers[[0]])
d = np.array(model.decoder.attention.attention_weights)
attention_map = d.reshape(d.shape[0], d.shape[2])
"""
)

PROGRAMS = {
    "chapter 5, a loop of its own": CUSTOM_LOOP,
    "chapter 5, the trainer": TRAINER,
    "chapter 6": LSTM_TRAINING,
    "chapter 6, better": BETTER_TRAINING,
    "chapter 7, texts": GENERATION,
    "chapter 7, addition": ADDITION,
    "chapter 7, peeking": PEEKY,
    "chapter 8": ATTENTION,
}
