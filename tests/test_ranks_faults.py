"""What goes wrong on one of several ranks ends all of them, and leaves nothing half-written."""

import json
import re

import pytest
from ranks import TESTS, needs_mpi, run_ranks

pytestmark = needs_mpi

DIVIDED = "ZeroDivisionError: integer division or modulo by zero"
FEW = "InputError: batch_size: expected at least one lane for each of 3 ranks, got 2; take a larger"
APART = "; they have gone apart: something in a layer, callback or schedule is not the same$"
DIVERGED = "TrainingDiverged: "
UNWRITTEN = ("ZeroDivisionError", "ValueError")
# What all ranks raise; or, with a rank, what that one raises, and of which the others tell.
FAULTS = {
    "on_step": (1, DIVIDED),
    "on_step_again": (2, DIVIDED),
    "same_error_again": (1, "ValueError: again"),
    "error_while_another_is_handled": (2, DIVIDED),
    "known_error_raised_again": (1, "InputError: the text has 1 tokens, but at least 2"),
    "step_beside_an_evaluation": (1, DIVIDED),
    "epoch_beside_an_evaluation": (0, DIVIDED),
    "on_epoch": (2, DIVIDED),
    "stop": (1, DIVIDED),
    "forward": (1, DIVIDED),
    "backward": (0, DIVIDED),
    "before_step": (2, DIVIDED),
    "after_epoch": (2, DIVIDED),
    "callbacks": (1, "TypeError: callbacks: expected objects of a Callback, got 3"),
    "short_text": (1, "InputError: the training part has 40 tokens, but 7 lanes"),
    "evaluation": (1, r"ValueError: xs: expected token ids in 0\.\.29"),
    "short_evaluation": (1, "InputError: the text has 1 tokens, but at least 2"),
    "few_lanes": (None, FEW),
    "gaps": (
        None,
        r"InputError: grads: expected arrays whose numbers follow each other .* \(16,\)",
    ),
    "state": (1, DIVIDED),
    "options": (2, DIVIDED),
    "restored": (1, "InputError: block: expected at most 9, got 99"),
    "rows_elsewhere": (
        None,
        r"InputError: layer unsaid: expected (3|2) rows along axis 0 .* got shape \(8, \1\);",
    ),
    "texts": (None, "RankError: rank 2 differs from rank 0 in training text: expected"),
    "lengths": (None, "RankError: rank 1 differs from rank 0 in training text: expected"),
    "valid_texts": (None, "RankError: rank 1 differs from rank 0 in validation text: expected"),
    "other_dtypes": (None, "nothing: "),
    "dropout_rates": (
        None,
        r"RankError: rank 1 .* in options of the layers: .*0\.5.*, got .*0\.25.*; start all ranks",
    ),
    "modes": (
        None,
        "RankError: rank 2 .* in options of the layers: .*in training.*, got .*in evaluation",
    ),
    "laziness": (
        None,
        "RankError: rank 1 .* in optimizer: expected Adam .*False.*, got Adam .*'lazy': True",
    ),
    "states_of_optimizers": (None, "RankError: rank 1 .* in state of the optimizer: expected "),
    "averages": (None, "RankError: rank 1 .* in weights: expected "),
    "best_losses": (None, r"RankError: rank 1 .* in best_loss: expected 0\.75, got 0\.5;"),
    "patience_of_one": (None, f"RankError: rank 1 .* in patience: expected None, got 1{APART}"),
    "patience_in_an_epoch": (None, f"RankError: rank 1 .* in patience: .* got 1{APART}"),
    "mode_of_one": (
        None,
        f"RankError: rank 1 .* in options of the layers: .*, got .*in evaluation.*{APART}",
    ),
    "clipping": (None, "RankError: rank 1 .* in max_grad: expected 0.5, got 0.25; start all ranks"),
    "rates": (None, "RankError: rank 1 .* in peak_lr: expected 0.5, got 0.25"),
    "optimizers": (None, "RankError: rank 2 .* in optimizer: expected SGD .* got Momentum "),
    "lanes": (None, "RankError: rank 1 .* in batch_size: expected 7, got 6;"),
    "epochs": (None, "RankError: rank 1 .* in number of epochs: expected 3, got 2;"),
    "other_weights": (None, "RankError: rank 2 .* in weights: expected"),
    "models": (
        None,
        r"RankError: rank 1 .* in parameters: .*Wh float64 \(10, 40\).*Wh float64 \(11, 44\)",
    ),
    "generators": (None, "RankError: rank 1 .* in state of the random generators: expected"),
    "places": (
        None,
        "RankError: rank 1 .* in place in the text: .* block 0.* got epoch 0, block 1",
    ),
    "versions": (None, r"RankError: rank 1 .* in version of rnnfast: expected .* got 0\.0;"),
    "instruction_sets": (None, "RankError: rank 1 .* in instruction set .* recent, got ancient;"),
    "weights_that_change": (None, "RankError: rank 2 differs from rank 0 in weights: expected"),
    "weights_that_change_in_a_long_epoch": (
        None,
        f"RankError: rank 2 differs from rank 0 in weights: expected .*{APART}",
    ),
    "weights_that_vanish": (2, "TrainingDiverged: weights are not finite after step 9"),
    "weights_that_vanish_at_a_stop": (
        2,
        "TrainingDiverged: weights are not finite after step 5",
    ),
    "loss_is_nan": (None, DIVERGED + "the loss is nan at step 4"),
    "gradient_is_nan": (None, DIVERGED + r"the gradient of failing\.0 is not finite at step 4"),
    "stop_of_one": (None, "StoppedByAll: stopped after step 5"),
    "run_without_text": (1, r"InputError: text file .*missing\.txt does not exist"),
    "run_with_other_text": (None, "RankError: rank 2 .* in text: expected one of sha256 "),
    "run_with_other_settings": (None, "RankError: rank 1 .* in setting hidden: expected 8, got 9"),
    "run_with_few_lanes": (None, FEW),
    "run_under_a_file": (0, "InputError: .* Not a directory"),
    "run_without_settings": (1, "TypeError: settings: expected Settings, got NoneType"),
    "run_that_is_there": (0, "InputError: .* already holds a run"),
    "full_disk_at_start": (0, "InputError: .* No space left on device"),
    "full_disk_later": (0, "OSError: .* No space left on device"),
    "run_with_a_callback_that_fails": (1, DIVIDED),
    "run_stopped_by_a_callback": (1, "TrainingInterrupted: enough"),
    "run_stopped_by_a_callback_after_an_epoch": (1, "TrainingInterrupted: enough"),
    "run_with_other_epochs": (None, "RankError: rank 1 .* in number of epochs: expected 2, got 1;"),
    "signal_to_one_rank": (None, "TrainingInterrupted: stopped after step 5 and saved;"),
    "signal_at_the_end": (None, "TrainingInterrupted: stopped after step 63 and saved;"),
    "run_of_nothing": (0, "InputError: .* holds no run"),
    "damaged_run": (0, "InputError: .* is no checkpoint, or is damaged"),
    "only_rank_0_has_the_folder": (None, "nothing: "),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What the ranks raise, by fault: an error of each, as text."""
    folder = tmp_path_factory.mktemp("faults")
    code, out, err = run_ranks(3, TESTS / "rank_faults.py", folder)
    assert (code, err) == (0, ""), out
    found = json.loads("{" + ",".join(out.splitlines()) + "}")
    return {name: [": ".join(error) for error in errors] for name, errors in found.items()}


def test_every_fault_is_expected(outcomes):
    assert list(outcomes) == list(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_of_one_rank_is_one_of_all(fault, outcomes):
    rank, expected = FAULTS[fault]
    for k, error in enumerate(outcomes[fault]):
        if rank in (None, k):
            assert re.match(expected, error)
        else:
            kind, _, message = expected.partition(": ")
            # errors that are written for users are told without their kind
            told = expected if kind in UNWRITTEN else f".*{message.removeprefix('.* ')}"
            assert re.match(f"RankError: rank {rank}: {told}", error)
