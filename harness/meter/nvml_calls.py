"""The reads of every tick, through the library that pynvml loaded, without allocating anything.

pynvml builds new structures at each call; at 8 GPUs and 2 Hz after a cold cache that alone would use up
the sampler's budget of 0.1 % of a core. Everything that is not called at every tick goes through pynvml's
functions. Each call returns NVML's own codes instead of raising.
"""

from __future__ import annotations

import struct
from ctypes import byref, c_uint, c_ulonglong, create_string_buffer
from typing import Any

import pynvml

# nvmlFieldValue_t: fieldId, scopeId, timestamp, latencyUsec, valueType, nvmlReturn, value (8 bytes); 40 bytes
# in all. The masks cut the value out of its union, by valueType.
_VALUE_MASKS = {1: 0xFFFFFFFF, 2: (1 << 64) - 1, 3: (1 << 64) - 1, 4: (1 << 63) - 1, 5: 0x7FFFFFFF, 6: 0xFFFF}
_DOUBLE = 0
_CLOCK_SM = int(pynvml.NVML_CLOCK_SM)

UNKNOWN_TYPE = -2
"""The code of a value whose type NVML does not document."""

MISSING = -1
"""What stands for a gauge that could not be read."""


def library_function(*names: str) -> Any | None:
    """The first of the named NVML functions that the loaded library has, None when it has none of them."""
    for name in names:
        function = getattr(pynvml.nvmlLib, name, None)
        if function is not None:
            return function
    return None


class FieldQuery:
    """nvmlDeviceGetFieldValues for a fixed list of fields of one device.

    Args:
        handle: The device's handle from pynvml.
        field_ids: NVML_FI_* ids, scope 0 (GPU).
    """

    def __init__(self, handle: Any, field_ids: list[int]) -> None:
        self._function = library_function("nvmlDeviceGetFieldValues")
        self._handle = handle
        self._count = len(field_ids)
        self._request = b"".join(struct.pack("<I36x", field_id) for field_id in field_ids)
        self._buffer = create_string_buffer(self._request, len(self._request))
        self._view = memoryview(self._buffer).cast("B")
        # Type and code of each field together: a number that is a known type exactly when the code is 0.
        self._unpack = struct.Struct("<" + "24xQQ" * self._count).unpack

    def call(self) -> int:
        """Query the fields; the call's own code. `values` or `parse` then says what came."""
        if self._function is None:
            return int(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        self._view[:] = self._request
        return int(self._function(self._handle, self._count, self._buffer))

    def values(self) -> list[int] | None:
        """The values of the last query, None unless every field was read and is an integer."""
        raw = self._unpack(self._view)
        try:
            return [raw[i + 1] & _VALUE_MASKS[raw[i]] for i in range(0, 2 * self._count, 2)]
        except KeyError:
            return None

    def parse(self) -> tuple[int, ...]:
        """(code, value) of each field of the last query, flat; a value counts if its code is 0."""
        raw = self._unpack(self._view)
        flat: list[int] = []
        for position in range(0, 2 * self._count, 2):
            kind, code = raw[position] & 0xFFFFFFFF, raw[position] >> 32
            mask = _VALUE_MASKS.get(kind)
            if code:
                flat += (code, 0)
            elif mask is not None:
                flat += (0, raw[position + 1] & mask)
            elif kind == _DOUBLE:
                flat += (0, int(struct.unpack("<d", struct.pack("<Q", raw[position + 1]))[0]))
            else:
                flat += (UNKNOWN_TYPE, 0)
        return tuple(flat)

    def read(self) -> tuple[int, ...]:
        """A code and a value per field, flat: (code 0, value 0, code 1, value 1, ...).

        A value counts if its code is 0. When the call itself fails, its code is every field's.
        """
        code = self.call()
        return (code, 0) * self._count if code else self.parse()


class Gauges:
    """Utilisation (%), used memory (MiB), temperature (deg C), SM clock (MHz), throttle bits of a device."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._utilisation = (c_uint * 2)()
        self._memory = (c_ulonglong * 3)()
        self._number = c_uint()
        self._bits = c_ulonglong()
        self._number_ref = byref(self._number)
        self._bits_ref = byref(self._bits)
        self._get_utilisation = library_function("nvmlDeviceGetUtilizationRates")
        self._get_memory = library_function("nvmlDeviceGetMemoryInfo")
        self._get_temperature = library_function("nvmlDeviceGetTemperature")
        self._get_clock = library_function("nvmlDeviceGetClockInfo")
        self._get_bits = library_function(
            "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
        )

    def read(self) -> tuple[int, int, int, int, int]:
        """(utilisation, memory, temperature, clock, throttle bits), `MISSING` for each that failed."""
        handle, number, reference = self._handle, self._number, self._number_ref
        utilisation = memory = temperature = clock = bits = MISSING
        if self._get_utilisation is not None and not self._get_utilisation(handle, self._utilisation):
            utilisation = self._utilisation[0]
        if self._get_memory is not None and not self._get_memory(handle, self._memory):
            memory = self._memory[2] >> 20
        if self._get_temperature is not None and not self._get_temperature(handle, 0, reference):
            temperature = number.value
        if self._get_clock is not None and not self._get_clock(handle, _CLOCK_SM, reference):
            clock = number.value
        if self._get_bits is not None and not self._get_bits(handle, self._bits_ref):
            bits = self._bits.value & ((1 << 63) - 1)
        return utilisation, memory, temperature, clock, bits
