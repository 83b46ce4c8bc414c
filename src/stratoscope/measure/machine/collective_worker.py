"""One rank of the collective probe: joins the group, checks a collective's result, and times it when asked."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from stratoscope.measure.machine.timing import operate_process, repeated


def collective(torch: Any, operation: str, size_bytes: int, device: Any) -> Callable[[], object]:
    """A call of the collective on float32 buffers; `size_bytes` as nccl-tests counts it."""
    dist = torch.distributed
    ranks = dist.get_world_size()
    count = max(ranks, size_bytes // 4 // ranks * ranks)
    whole = torch.ones(count, device=device)
    if operation == "all_reduce":
        return lambda: dist.all_reduce(whole, op=dist.ReduceOp.MAX)
    if operation == "broadcast":
        return lambda: dist.broadcast(whole, src=0)
    part = torch.full((count // ranks,), float(dist.get_rank()), device=device)
    if operation == "all_gather":
        parts = list(whole.chunk(ranks))
        return lambda: dist.all_gather(parts, part)
    out = torch.empty_like(whole)
    return lambda: dist.all_to_all_single(out, whole)


def check(torch: Any, device: Any) -> None:
    """Raises RuntimeError where an all-reduce of the ranks' numbers is not their sum."""
    dist = torch.distributed
    number = torch.tensor([float(dist.get_rank() + 1)], device=device)
    dist.all_reduce(number)
    ranks = dist.get_world_size()
    if number.item() != ranks * (ranks + 1) / 2:
        raise RuntimeError(f"an all-reduce over {ranks} ranks gave {number.item()}")


def main() -> None:
    """`BACKEND RANK RANKS FILE`: serves questions on standard input until they end."""
    backend, rank, ranks, meeting = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    import torch

    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    torch.distributed.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    check(torch, device)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        call = collective(torch, question["operation"], question["bytes"], device)
        answer: dict[str, Any]
        try:
            torch.distributed.barrier()
            loop = repeated(call)
            answer = {"ok": list(operate_process(_until_done(torch, loop, device))(question["iterations"]))}
        except RuntimeError as error:
            answer = {"error": " ".join(str(error).split())[:300]}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
    torch.distributed.destroy_process_group()


def _until_done(torch: Any, loop: Callable[[int], object], device: Any) -> Callable[[int], object]:
    """The loop, on a GPU until all of it is done."""

    def run(iterations: int) -> None:
        loop(iterations)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


if __name__ == "__main__":
    main()
