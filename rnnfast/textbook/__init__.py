"""The textbook's own programs, with one changed import.

A program written for the folder `common/` of "Deep Learning from Scratch 2" runs after `common`
has become `rnnfast.textbook` in its imports: the modules `layers`, `time_layers`, `functions`,
`optimizer`, `trainer`, `util`, `base_model`, `np` and `config` have every public name of theirs.
Recurrent layers, embeddings, affine layers over time, their loss and the optimizers are those of
the library, compiled; what they take is what the book's take: a bias of another dtype than the
matrices, a number as the gradient of a state, the gradient of a block's first steps alone, a state
of one row for a batch, targets in any shape.

Nothing here but these differences is meant to differ from the book's code:

Layers
    The dtype of the weights is kept; in the book, outputs over time are float32.
    Ids and labels outside 0..V-1 are errors; in the book, negative ones count from the end.
    `layers` of a block, and gates in a `cache`, are made when somebody reads them, from the weights
    as they are then. The steps in `layers` have gradients of 0.
    A state of one row serves for a batch in backward too, where the book's fails. `set_state`
    copies.
    `TimeAffine` does not see what is written into x after forward.
    `TimeLSTM` has `dc` besides `dh`. `GRU` and `TimeGRU` take a bias b or, as in the book's earlier
    code, none; both have `params`.
    `Dropout` and `TimeDropout`: backward after evaluation is the gradient of evaluation; in the
    book, it is that of the mask before. A ratio is at least 0 and below 1.
    `Simple_TimeAffine` has a backward that works, and `params` and `grads` besides.
Losses
    `TimeSoftmaxWithLoss` takes the loss, a float of Python, from the logits: it is finite where a
    probability is 0 (in the book infinite), and 0 where every target is ignored (in the book NaN).
    A second backward returns what the first did; in the book, it subtracts the targets again.
    `SoftmaxWithLoss` and `cross_entropy_error` take labels (N, 1) for labels (N,); in the book,
    each of them then counts for every row.
    `SigmoidWithLoss`: targets that are not 0 or 1, or not one for every score, are errors.
    `softmax` is taken along the last axis; in the book, an x of three axes is returned as it is.
Optimizers
    `lr` is above 0. `clip_grads` takes the norm in float64, and changes nothing where it is not
    finite; `max_norm` is above 0. Arrays that do not fit each other, or those of the first update,
    are errors. `Nesterov` is the book's formula; see there.
Training
    `remove_duplicate` finds parameters that are one memory; in the book, matrices that have equal
    numbers too, and so two that start from zeros.
    `eval_perplexity` looks whether a model takes `train_flg`; in the book, any TypeError in a model
    makes it try again without, dropout being on. A text of less than a block is an error that says
    so, as is a batch that the data of `fit` do not fill once.
    matplotlib is imported by `plot` alone.
Files
    `save_params` writes the parameters as they are, and no pickle; the book's writes float16.
    `load_params` reads both, executes nothing, and refuses what does not fit the model.
Memory
    Where the C library is glibc, the memory of freed arrays is kept for those that follow, up to
    256 MB of it: programs in NumPy spend much of their time on getting it anew. Who has chosen
    otherwise, by MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_, is left alone.
Other
    `config.GPU = True` and `to_gpu` are errors: there is no GPU here.
    `create_contexts_target` and `convert_one_hot` refuse what the book's get wrong: a window of 0,
    negative ids. `ppmi` is 0 for words that do not occur, without a warning.
    What is printed is in English. A star brings `np`, but no other modules that the book's happen
    to import, such as `sys`.
"""

import os as _os

from ..kernels import engine as _engine

if not {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & {*_os.environ}:
    _engine.keep_memory(2**25, 2**28)  # the most that glibc takes for one array
