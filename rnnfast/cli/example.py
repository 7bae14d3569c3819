"""`rnnfast example`."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError, as_word
from ..models import AttentionSeq2seq, Seq2seq
from ..systems.examples import EXAMPLES, STOP, Example, Result, train_example
from ..threads import get_num_threads
from ..training.plot import plot_attention, plot_curve
from ..training.progress import Progress
from .options import count, number, seed
from .output import draw

PAIRS = 50_000
ANSWERS_SHOWN = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("name", choices=list(EXAMPLES), help="sums, or dates in many forms")
    option("--ask", metavar="TEXT", help="let the model in --out answer this; nothing is trained")
    default = ", ".join(f"{name} {example.epochs}" for name, example in EXAMPLES.items())
    option("--epochs", type=count, metavar="N", help=f"passes over the pairs (default: {default})")
    least_ten = number(int, lambda n: 10 <= n <= 10**6, "a whole number from 10 to 1,000,000")
    made = f"pairs to make, a tenth of them for the test (default: {PAIRS})"
    option("--pairs", type=least_ten, default=PAIRS, metavar="N", help=made)
    option("--seed", type=seed, default=0, metavar="N", help="of all that is drawn (default: 0)")
    option("--threads", type=count, metavar="N", help="CPU threads (default: all usable)")
    where = "folder for the model and the pictures, replaced if they are there"
    option("--out", metavar="DIR", help=f"{where} (default: rnnfast-NAME)")


def execute(arguments: argparse.Namespace) -> int:
    example = EXAMPLES[arguments.name]
    folder = Path(arguments.out or f"rnnfast-{example.name}")
    if arguments.ask is not None:
        print(_answer(example, folder, arguments.ask))
        return 0
    folder.mkdir(parents=True, exist_ok=True)  # an error comes before the work
    epochs = arguments.epochs or example.epochs
    started = time.perf_counter()
    result = _train(example, arguments.pairs, epochs, arguments.seed)
    seconds = time.perf_counter() - started
    right = round(result.accuracies[-1] * len(result.questions))
    print(
        f"test: {right:,} of {len(result.questions):,} questions answered right, "
        f"{result.accuracies[-1]:.1%}, after {seconds:.0f} s"
    )
    _show_answers(example, result)
    result.model.save(folder / "model.npz")
    print(f"model: {folder / 'model.npz'}")
    _draw(example, result, folder)
    ask = f'rnnfast example {example.name} --ask "{_longest(result)}"'
    if arguments.out:
        ask += f" --out {as_word(folder)}"
    print(
        f"next: `{ask}` asks it a question of yours;\n"
        f"      rnnfast.{type(result.model).__name__}.load({str(folder / 'model.npz')!r}) is the "
        "model in Python"
    )
    return 0


def _train(example: Example, pairs: int, epochs: int, seed: int) -> Result:
    tested = pairs // 10
    model, letters = example.Model.__name__, len(example.vocabulary)
    print(
        f"task: {example.about}; {pairs:,} pairs made with seed {seed}, {tested:,} of them to test",
        f"model: {model}, {letters} characters, vectors of {example.wordvec_size}, hidden size "
        f"{example.hidden_size}; Adam, lr {example.lr:g}, batches of {example.batch_size}",
        f"threads: {get_num_threads()}",
        sep="\n", flush=True,
    )  # fmt: skip
    characters = example.answer_size
    with Progress((pairs - tested) * epochs * characters) as progress:
        return train_example(
            example,
            pairs=pairs,
            epochs=epochs,
            seed=seed,
            on_step=lambda rows, loss: progress.advance(rows * characters, f"loss {loss:.3f}"),
            on_epoch=lambda epoch, loss, accuracy: progress.line(
                f"epoch {epoch}/{epochs}: training {loss:.4f} nats per character, "
                f"{accuracy:.1%} of the test right"
            ),
        )


def _show_answers(example: Example, result: Result) -> None:
    questions, expected = result.questions[:ANSWERS_SHOWN], result.answers[:ANSWERS_SHOWN]
    width = max(map(len, questions))
    for question, answer, right in zip(
        questions, example.answers(result.model, questions), expected, strict=True
    ):
        mark = "right" if answer == right else f"WRONG, it is {right}"
        print(f"  {question:{width}}  ->  {answer:{example.answer_size}}  {mark}")


def _longest(result: Result) -> str:
    """Of the questions that are shown, the one with most to look at."""
    return max(result.questions[:ANSWERS_SHOWN], key=len)


def _draw(example: Example, result: Result, folder: Path) -> None:
    """The curve, and the attention to a question where there is any."""

    def curve(path: Path) -> None:
        plot_curve(
            path,
            range(1, len(result.accuracies) + 1),
            [100 * accuracy for accuracy in result.accuracies],
            xlabel="epoch",
            ylabel="test questions answered right, %",
            title=f"rnnfast example {example.name}",
        )

    pictures: dict[str, Callable[[Path], None]] = {"accuracy": curve}
    if isinstance(model := result.model, AttentionSeq2seq):
        question = _longest(result)
        (answer,) = example.answers(model, [question])
        answer = answer or STOP  # which is written where an answer is empty
        weights = example.attention(model, question, answer)
        read = example.read(question)
        pictures["attention"] = lambda path: plot_attention(path, weights, read, answer)
    for name, write in pictures.items():
        draw(name, folder / f"{name}.png", write)


def _answer(example: Example, folder: Path, question: str) -> str:
    """What the model of an earlier run answers."""
    path = folder / "model.npz"
    if not path.exists():
        raise InputError(
            f"{path} does not exist; `rnnfast example {example.name} --out {as_word(folder)}` "
            "makes it"
        )
    model: Seq2seq = example.Model.load(path)
    if model.vocab_size != len(example.vocabulary):
        raise InputError(
            f"{path}: expected a model of {len(example.vocabulary)} characters, got one of "
            f"{model.vocab_size}; `rnnfast example {example.name} --out DIR` makes another"
        )
    return example.answers(model, [question])[0]
