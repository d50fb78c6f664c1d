"""How gradients travel between ranks, and what that costs over a network.

By default DDP sums float32 buckets while the backward pass goes on. Halved, each bucket travels as 16-bit numbers and
is added up in float32: every rank gets a share of the bucket from all, adds it up, and sends the sum to all. Nothing
is ever added in 16 bits; rounded are what a rank sends and the sum that is sent back, each once.

bf16 has the range of float32 and 8 bits of precision. fp16 has 11 but little range, so every share is first scaled by
a power of two, which travels with it. What is not finite stays so, on all ranks, and ends the run.
"""

# Without `from __future__ import annotations`: DDP reads those of its hook, and wants no text.
import queue
import threading

import torch
import torch.distributed as dist

EXCHANGES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
BYTES_PER_NUMBER = {name: (dtype or torch.float32).itemsize for name, dtype in EXCHANGES.items()}
NETWORKS_GBIT_PER_S = (1, 10, 25, 100)  # common ones, for which costs are told
# The largest magnitude of a share is scaled to below this; fp16 ends at 2 ** 16.
FP16_TOP_EXPONENT = 15


def halve_exchange(wrapped: torch.nn.parallel.DistributedDataParallel, exchange: str) -> None:
    """Have `wrapped` exchange its gradients as `exchange` says, one of `EXCHANGES`; nothing to do for fp32.

    Raises ValueError for another name, and for nccl, whose links have no need of it.
    """
    if exchange not in EXCHANGES:
        raise ValueError(f"--grad-exchange {exchange!r} is not known; allowed: {', '.join(EXCHANGES)}")
    if EXCHANGES[exchange] is None:
        return
    if dist.get_backend() != "gloo":
        raise ValueError(f"--grad-exchange {exchange} is for --ddp-backend gloo; leave it out with nccl")
    wrapped.register_comm_hook(HalvedExchange(EXCHANGES[exchange]), HalvedExchange.average)


def exchange_bytes(numbers: int, world_size: int, bytes_per_number: int = 4) -> float:
    """Bytes that each rank sends, and receives, to average `numbers` gradients."""
    return 2 * numbers * bytes_per_number * (world_size - 1) / world_size


def exchange_seconds(numbers: int, world_size: int, bytes_per_number: int, gbit_per_s: float) -> float:
    """Seconds that the exchange of an optimizer step takes over links of `gbit_per_s` each way.

    An optimistic bound: networks reach nine tenths of their name at best. What the backward pass hides of it is not
    taken off. Ranks of one machine share its link, so give a rank's share.
    """
    return exchange_bytes(numbers, world_size, bytes_per_number) * 8 / (gbit_per_s * 1e9)


class HalvedExchange:
    """DDP's communication hook. A thread of its own exchanges bucket after bucket, in the order of the backward pass,
    which is the same on all ranks; meanwhile the backward pass goes on."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._buckets: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._work, name="gradient exchange", daemon=True).start()

    def average(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """The bucket's mean over ranks, in the bucket's own memory, when the future is done."""
        buffer = bucket.buffer()
        devices = [buffer.device] if buffer.is_cuda else []
        averaged: torch.futures.Future[torch.Tensor] = torch.futures.Future(devices=devices)
        ready = None
        if buffer.is_cuda:
            ready = torch.cuda.Event()
            ready.record()
        self._buckets.put((buffer, ready, averaged))
        return averaged

    def _work(self) -> None:
        while True:
            buffer, ready, averaged = self._buckets.get()
            try:
                if ready is not None:
                    ready.synchronize()
                self._average(buffer)
            except Exception as error:  # a rank is gone: the backward pass is to raise it
                averaged.set_exception(error)
            else:
                averaged.set_result(buffer)

    def _average(self, buffer: torch.Tensor) -> None:
        ranks = dist.get_world_size()
        shares = torch.nn.functional.pad(buffer, (0, -len(buffer) % ranks)).view(ranks, -1)
        received = _all_to_all(self._pack(shares))
        mean = _unpack(received).sum(dim=0, keepdim=True) / ranks
        means = _unpack(_all_to_all(self._pack(mean).expand(ranks, -1)))
        buffer.copy_(means.flatten()[: len(buffer)])

    def _pack(self, shares: torch.Tensor) -> torch.Tensor:
        """Shares (S, P) of float32 as 16-bit (S, P + 1) on the CPU, the last number of each its scale's exponent."""
        exponents = torch.zeros(len(shares), 1, dtype=torch.int32, device=shares.device)
        if self.dtype == torch.float16:
            largest = shares.abs().amax(dim=1, keepdim=True)
            exponents = FP16_TOP_EXPONENT - torch.frexp(largest).exponent
            # Of zeros and of what is not finite there is nothing to scale; frexp's answer for these is arbitrary.
            exponents = torch.where(torch.isfinite(largest) & (largest > 0), exponents, 0)
        scaled = torch.ldexp(shares, exponents)
        return torch.cat([scaled.to(self.dtype), exponents.to(self.dtype)], dim=1).cpu()


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """What `HalvedExchange._pack` was given, in float32, rounded."""
    return torch.ldexp(packed[:, :-1].float(), -packed[:, -1:].to(torch.int32))


def _all_to_all(sent: torch.Tensor) -> torch.Tensor:
    """Row r of `sent` goes to rank r; returned is, as row r, what rank r sent to this one."""
    received = torch.empty_like(sent, memory_format=torch.contiguous_format)
    dist.all_to_all_single(received, sent.contiguous())
    return received
