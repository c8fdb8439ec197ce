"""The bytes of a logit cache: what one shard file holds, and how token ids and header are coded.

A shard is one safetensors file of plain arrays, a row for every label position of its examples, in example
order. Row t holds the teacher's distribution *for* label token t, and the token itself, so that every reader
can check the alignment. With P positions of n examples, at most K ids a row, nT temperatures other than 1:

    offsets      i64 [n+1]              rows of example i are offsets[i]:offsets[i+1]
    example_key  u64 [n]                first 8 bytes of sha256(example id)
    log_tail     f32 [P]                log of the mass outside the stored ids, at T = 1
    a_t          f32 [P, nT]            A_T = log sum_v p(v)^(1/T) over the whole vocabulary
    target       u32 [P]                the label token
    ids_lo       u16 [P, K]             low 16 bits of the ids, most probable first, ties by id
    logp         f16 [P, K]             log-probabilities at T = 1 over the whole vocabulary
    target_logp  f16 [P]
    ids_hi       u8  [P, b*ceil(K/8)]   the b bits above the low 16, bit-plane by bit-plane, most significant
                                        bit first; absent when V <= 65,536

In the modes nucleus and sample rows differ in length: ids_lo, logp and ids_hi are flat over the E entries of
all rows, and two more arrays say whose they are: row_len u16 [P], and for sample counts u8 or u16 [E], how
often each id was drawn. fp16 keeps a probability within 0.8 %, bf16 only within 6.4 %, at the same size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import numpy.typing as npt

from harness.errors import KitError

Mode = Literal["topk", "nucleus", "sample"]
MODES: tuple[Mode, ...] = ("topk", "nucleus", "sample")
FORMAT = "logit-cache/1"
LITTLE_MASS = 0.5
"""Below this share of the teacher's mass a truncated row is flagged."""

Fields = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]

_DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "U8": np.dtype("u1"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ALIGNMENT = 64
_PIECE = 1 << 18


@dataclass(frozen=True)
class CacheSpec:
    """What a row of the cache holds.

    Attributes:
        vocab_size: Rows of the teacher's output matrix.
        k: Most ids a row can hold.
        mode: "topk": the k most probable. "nucleus": the fewest whose mass is at least 1 - eps, at most k.
            "sample": the distinct ids of k independent draws from the teacher, with their counts.
        temperatures: Temperatures whose normaliser A_T is stored; T = 1 needs none.
        eps: Mass that a nucleus row may leave out.
        seed: Of the draws.
    """

    vocab_size: int
    k: int = 100
    mode: Mode = "topk"
    temperatures: tuple[float, ...] = (2.0, 4.0)
    eps: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise KitError(f"cache mode {self.mode!r}", expected=" or ".join(MODES))
        if not 1 <= self.k < 1 << 16 or self.vocab_size < 2:
            raise KitError(f"k={self.k}, vocabulary {self.vocab_size}", expected="k from 1 to 65535")
        if self.mode != "sample" and self.k > self.vocab_size:
            raise KitError(f"k={self.k} of a vocabulary of {self.vocab_size}", fix="lower k")
        bad = [value for value in self.temperatures if not (math.isfinite(value) and value > 0)]
        if bad or 1.0 in self.temperatures or list(self.temperatures) != sorted(set(self.temperatures)):
            raise KitError(
                f"temperatures {list(self.temperatures)}", expected="rising, positive, without 1 (its A is 0)"
            )
        if (self.mode == "nucleus") != (self.eps is not None) or not 0 < (self.eps or 0.5) < 1:
            raise KitError(f"eps={self.eps} in mode {self.mode}", expected="0 < eps < 1, for nucleus alone")
        if (self.mode == "sample") != (self.seed is not None):
            raise KitError(
                f"seed={self.seed} in mode {self.mode}", expected="a seed for sample, and only there"
            )

    @property
    def ragged(self) -> bool:
        """Whether rows differ in length."""
        return self.mode != "topk"

    @property
    def high_bits(self) -> int:
        """Bits of an id above the low 16."""
        return max(0, (self.vocab_size - 1).bit_length() - 16)

    @property
    def counts_dtype(self) -> np.dtype[Any]:
        """Type of the draw counts."""
        return np.dtype("u1") if self.k < 256 else np.dtype("<u2")

    @property
    def bytes_per_position(self) -> int:
        """Bytes a label position takes in mode topk, beside 16 an example and the header."""
        return _size_of(self.fields(1, 0, 0)) - 8

    def fields(self, positions: int, examples: int, entries: int) -> Fields:
        """Name, type and shape of a shard's arrays, in the order of the file: widest type first, so that
        every array is aligned.

        Args:
            positions: Rows P.
            examples: n.
            entries: Stored ids of all rows E; not looked at in mode topk.
        """
        planes, temperatures = self.high_bits, len(self.temperatures)
        table = (positions, self.k) if not self.ragged else (entries,)
        packed = (positions, planes * -(-self.k // 8)) if not self.ragged else (planes * -(-entries // 8),)
        result = {
            "offsets": (_DTYPES["I64"], (examples + 1,)),
            "example_key": (_DTYPES["U64"], (examples,)),
            "log_tail": (_DTYPES["F32"], (positions,)),
            "a_t": (_DTYPES["F32"], (positions, temperatures)),
            "target": (_DTYPES["U32"], (positions,)),
            "ids_lo": (_DTYPES["U16"], table),
            "logp": (_DTYPES["F16"], table),
            "target_logp": (_DTYPES["F16"], (positions,)),
        }
        if self.ragged:
            result["row_len"] = (_DTYPES["U16"], (positions,))
        if self.mode == "sample":
            result["counts"] = (self.counts_dtype, (entries,))
        result["ids_hi"] = (_DTYPES["U8"], packed)
        if not temperatures:
            del result["a_t"]
        if not planes:
            del result["ids_hi"]
        return result

    def as_json(self) -> dict[str, Any]:
        """The spec as JSON values, for the fingerprint."""
        return {
            "vocab_size": self.vocab_size,
            "k": self.k,
            "mode": self.mode,
            "temperatures": list(self.temperatures),
            "eps": self.eps,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CacheSpec:
        """The inverse of `as_json`."""
        return cls(**{**value, "temperatures": tuple(float(item) for item in value["temperatures"])})


@dataclass(frozen=True)
class RowBlock:
    """Rows of the cache on their way to a shard, as numpy arrays.

    Attributes:
        ids: int32 [R, K], most probable first; places from `lengths` on hold anything.
        logp: float16 [R, K].
        log_tail: float32 [R].
        a_t: float32 [R, nT].
        target: int [R].
        target_logp: float16 [R].
        kept: float32 [R, 1 + nT], teacher's mass on the stored ids at T = 1 and at each other temperature.
        lengths: int [R]; None in mode topk.
        counts: int [R, K]; only in mode sample.
    """

    ids: npt.NDArray[np.int32]
    logp: npt.NDArray[np.float16]
    log_tail: npt.NDArray[np.float32]
    a_t: npt.NDArray[np.float32]
    target: npt.NDArray[np.integer[Any]]
    target_logp: npt.NDArray[np.float16]
    kept: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.integer[Any]] | None = None
    counts: npt.NDArray[np.integer[Any]] | None = None


class Hash(Protocol):
    """What hashlib gives."""

    def update(self, data: Any, /) -> None:
        """Add bytes."""


def high_bits(ids: npt.NDArray[np.int32], planes: int) -> npt.NDArray[np.uint8]:
    """The bits above the low 16 of [..., K] ids, packed: uint8 [..., planes * ceil(K/8)]."""
    if planes == 1:
        # The vocabulary ends below 131,072: the one bit is a comparison, eight times faster than a shift; and
        # whole bytes a row can be packed in one run.
        *rows, k = ids.shape
        bits = np.zeros((*rows, -(-k // 8) * 8), dtype=np.bool_)
        np.greater(ids, 0xFFFF, out=bits[..., :k])
        return np.packbits(bits.reshape(-1)).reshape(*rows, -1)
    return np.concatenate([np.packbits((ids >> (16 + bit)) & 1, axis=-1) for bit in range(planes)], axis=-1)


def header_bytes(
    spec: CacheSpec, positions: int, examples: int, entries: int, note: Mapping[str, str]
) -> bytes:
    """A shard's safetensors header with its length prefix; the arrays follow without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, **note}}
    end = 0
    for name, (dtype, shape) in spec.fields(positions, examples, entries).items():
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_arrays(
    stream: BinaryIO,
    digest: Hash,
    header: bytes,
    arrays: Mapping[str, npt.NDArray[Any]],
    order: Sequence[str],
) -> int:
    """Write header and arrays, hashing what is written.

    Returns:
        Bytes written.
    """
    stream.write(header)
    digest.update(header)
    total = len(header)
    for name in order:
        data = np.ascontiguousarray(arrays[name])
        if data.size:
            view = data.reshape(-1).view(np.uint8).data
            # In pieces, so that the hash finds them in the processor's cache.
            for start in range(0, view.nbytes, _PIECE):
                stream.write(view[start : start + _PIECE])
                digest.update(view[start : start + _PIECE])
            total += view.nbytes
    return total


def map_shard(path: Path, spec: CacheSpec) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a shard as read-only views on a memory map of the file.

    Raises:
        KitError: The file cannot be read, or its header does not describe a shard of this cache that fills
            the file to its last byte. Names the shard.
    """
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
        size = int.from_bytes(data[:8].tobytes(), "little")
        if not 2 <= size <= len(data) - 8:
            raise ValueError(f"a header of {size} bytes")
        header = json.loads(data[8 : 8 + size].tobytes())
        positions, examples = header["target"]["shape"][0], header["example_key"]["shape"][0]
        fields = spec.fields(positions, examples, header["ids_lo"]["shape"][0])
        if fields.keys() != header.keys() - {"__metadata__"}:
            raise ValueError(f"arrays {sorted(header.keys() - {'__metadata__'})}")
        result = {}
        start = 8 + size
        for name, (dtype, shape) in fields.items():
            end = start + dtype.itemsize * math.prod(shape)
            entry = header[name]
            offsets = [start - 8 - size, end - 8 - size]
            if [_DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]] != [
                dtype,
                list(shape),
                offsets,
            ]:
                raise ValueError(f"{name} is {entry}")
            # A plain ndarray over the map: np.memmap's own slicing costs microseconds a call.
            result[name] = np.asarray(data[start:end]).view(dtype).reshape(shape)
            start = end
        if start != len(data):
            raise ValueError(f"{len(data)} bytes, the header describes {start}")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise KitError(
            f"is damaged: {error}",
            where=path.name,
            expected="a shard as teacher_logits writes it",
            fix="run teacher_logits again: it makes damaged shards again",
        ) from None
    return result


def _size_of(fields: Fields) -> int:
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in fields.values())
