"""Two ranks do what one would, and fail together with the first cause on top."""

import functools
import os
import socket
import subprocess
import sys
from unittest import mock

import pytest
import torch

from engine import evaluate, train_one_epoch
from tests.tiny_training import CPU, build_run, compute_loss, describe, options, score_batch
from utils.arguments import choose_num_workers
from utils.checkpoint import to_plain
from utils.interrupt import StopRequest
from utils.ranks.distributed import Ranks, choose_port, choose_world_size, launch
from utils.ranks.spawn import RankError

# (rows, batch per rank on two ranks, accumulation): even, uneven, a rank without a sample in the last step
CASES = [(8, 2, 1), (11, 2, 1), (9, 2, 2), (5, 2, 1)]
RUNS = [*map(str, CASES), "phase2_cass", "phase3_obstruction", "phase4_quantitative"]
VAL_ROWS = [5] * len(CASES) + [2, 2, 2]


def follow_steps(state, loaders, compute_loss, score_batch, ranks):
    """Gradients of every step, the epoch's means and the validation records of a run without learning."""
    steps = []
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: steps.append(
            [p.grad.clone() for group in optimizer.param_groups for p in group["params"]]
        )
    )
    setting = dict(ranks=ranks, device=CPU, amp="off", stop=StopRequest(announce=False))
    means = train_one_epoch(state, loaders["train"], compute_loss, describe=describe, clip=0, **setting)
    return {
        "steps": steps,
        "means": means,
        "records": evaluate(state.model, loaders["val"], score_batch, **setting),
    }


def follow_tiny(ranks, rows, batch_size, accum_steps):
    args = options(rows=rows, batch_size=batch_size, accum_steps=accum_steps, epochs=1, lr=0.0, dropout=0.0)
    state, loaders, _ = build_run(ranks, args)
    return follow_steps(state, loaders, compute_loss, score_batch, ranks)


def follow_cass(ranks, csv_path):
    """Stage 2 through its own functions: its class, map, box and vessels."""
    from tests.tiny_cass import run_cass, tiny_run  # here: the ranks of other tests need not wait for it

    args, tables = tiny_run(csv_path, csv_path.parent)
    args.map_lr = 0.0
    return follow_stage(ranks, args, functools.partial(run_cass, ranks, args, tables, dropout=False))


def follow_obstruction(ranks, csv_path):
    """And stage 3: score, point, box, severity and vessels."""
    from tests.tiny_obstruction import run_obstruction, tiny_run

    args, tables = tiny_run(csv_path, csv_path.parent)
    return follow_stage(ranks, args, functools.partial(run_obstruction, ranks, args, tables))


def follow_lumen(ranks, csv_path):
    """And stage 4: a lumen's area and edge, and its QCA."""
    from tests.tiny_lumen import run_lumen, tiny_run

    args, tables = tiny_run(csv_path, csv_path.parent)
    return follow_stage(ranks, args, functools.partial(run_lumen, ranks, args, tables))


def follow_stage(ranks, args, run):
    """A run of a stage's script on three rows in batches of two."""
    found = {}

    def follow(stage, args, state, loaders, *_):
        found.update(follow_steps(state, loaders, stage.compute_loss, stage.score_batch, ranks))

    args.lr, args.batch_size = 0.0, 2 // ranks.world_size
    with mock.patch("utils.stage.train", follow):
        run()
    return found


def follow_all(ranks, folder, csv_path):
    found = []
    for rows, batch_size, accum_steps in CASES:
        found.append(follow_tiny(ranks, rows, batch_size * 2 // ranks.world_size, accum_steps))
    found += [follow(ranks, csv_path) for follow in (follow_cass, follow_obstruction, follow_lumen)]
    torch.save(to_plain(found), folder / f"{ranks.world_size}-{ranks.rank}.pt")


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    from tests.csv_fixture import write_tiny_dataset

    folder = tmp_path_factory.mktemp("ranks")
    shape = dict(patients=5, rows_per_patient=1, val_patients=2, cass_truth=True)
    csv_path = write_tiny_dataset(tmp_path_factory.mktemp("data"), **shape)
    launch(follow_all, (folder, csv_path), world_size=2, default_port=12398)
    launch(follow_all, (folder, csv_path), world_size=1)
    return {name: torch.load(folder / f"{name}.pt") for name in ("1-0", "2-0", "2-1")}


@pytest.mark.parametrize("run", range(len(RUNS)), ids=RUNS)
def test_two_ranks_give_the_gradients_of_one_with_twice_the_batch(followed, run):
    alone = followed["1-0"][run]["steps"]
    # The stages' convolutions sum thousands of places a sample in float32, in another order for another batch, and a
    # sum that changes sign turns a unit on or off: seen were 1.2e-4 of the largest gradient in stage 2, 1.2e-6 in
    # stage 3. A sample lost or weighted wrongly changes it by tens of percent.
    share = 1e-3 if RUNS[run].startswith("phase") else 1e-6
    for name in ("2-0", "2-1"):
        together = followed[name][run]["steps"]
        assert len(together) == len(alone)
        for one, other in zip(alone, together, strict=True):
            largest = max(float(a.abs().max()) for a in one)
            for a, b in zip(one, other, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=share * largest)


def test_two_ranks_report_the_losses_of_one(followed):
    for alone, first, second in zip(followed["1-0"], followed["2-0"], followed["2-1"], strict=True):
        assert first["means"] == second["means"]
        assert first["means"] == pytest.approx(alone["means"], rel=1e-6)


def test_validation_gives_every_rank_all_records_in_the_order_of_rows(followed):
    runs = zip(VAL_ROWS, followed["1-0"], followed["2-0"], followed["2-1"], strict=True)
    for rows, alone, first, second in runs:
        assert repr(first["records"]) == repr(second["records"])  # nan is not nan, but is written alike
        assert [record["row"] for record in first["records"]] == list(range(rows))
        for one, other in zip(alone["records"], first["records"], strict=True):
            assert numbers_of(one) == pytest.approx(numbers_of(other), rel=1e-5, abs=1e-6, nan_ok=True)


def numbers_of(value, name=""):
    """The numbers of a record, nested as it may be, by where they stand."""
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {where: number for key, inner in pairs for where, number in numbers_of(inner, f"{name}.{key}").items()}
    return {} if isinstance(value, str) else {name: value}  # why a lumen could not be measured


def fail_or_wait(ranks, how):
    if ranks.rank == 1:
        if how == "exit":
            os._exit(9)
        raise ArithmeticError("planted failure")
    ranks.sum([1.0])  # would wait for half an hour


@pytest.mark.parametrize(
    "how, said", [("raise", "ArithmeticError: planted failure"), ("exit", "rank 1 died without a word")]
)
def test_one_rank_failing_ends_all_with_its_reason(how, said):
    with pytest.raises(RankError, match=said) as caught:
        launch(fail_or_wait, (how,), world_size=2, default_port=12398)
    assert "rank 1" in str(caught.value).splitlines()[0]


@pytest.mark.slow
def test_torchrun_joins_the_group_that_it_made(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "12397",
        "-m",
        "tests.tiny_training",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "tiny_best.pth").exists()
    failed = subprocess.run([*command, "--fail-rank", "1"], capture_output=True, text=True, timeout=300)
    assert failed.returncode != 0 and "planted failure" in failed.stderr


def test_a_port_that_is_taken(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(OSError, match=f"--master-port {taken} is taken"):
            choose_port(taken, 12355)
        chosen = choose_port(None, taken)
        assert chosen != taken and f"port {taken} is taken" in capsys.readouterr().out


def test_the_number_of_ranks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert (choose_world_size(None), choose_world_size(2)) == (3, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_world_size(None) == 1
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert choose_world_size(None) == 4


def test_torchrun_with_one_process_ends_well(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    seen = []
    launch(lambda ranks: seen.append(ranks))
    assert seen == [Ranks(rank=0, world_size=1, local_rank=0)]


def test_loader_processes_share_the_cores_with_this_machines_ranks_only(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16), raising=False)
    assert (choose_num_workers(None, 8), choose_num_workers(3, 8)) == (1, 3)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # two machines of four
    assert choose_num_workers(None, 8) == 3


def test_one_rank_needs_no_group():
    assert Ranks().sum([1, 2.5]) == [1.0, 2.5] and Ranks().gather("x") == ["x"] and Ranks().is_main
