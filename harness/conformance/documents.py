"""Operations on bytes and documents: canonical JSON, digests, key order, versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from harness.errors import KitError

Json = Mapping[str, Any]


def canonical_json(given: Json) -> Json:
    """RFC 8785 form of a JSON text and its digest."""
    from harness.bundle.canonical import canonical_json as write

    try:
        value = json.loads(given["json"])
    except ValueError as error:
        raise KitError(f"not JSON: {error}") from None
    data = write(value)
    return {"canonical": data.decode(), "sha256": hashlib.sha256(data).hexdigest()}


def logical_digest(given: Json) -> Json:
    """Logical digest of a table given column by column."""
    import pyarrow as pa

    from harness.bundle.digest import logical_digest as digest

    types = {"float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
    types |= {name: getattr(pa, name)() for name in ("int16", "int32", "int64", "uint8", "uint16", "uint64")}
    fields, arrays = [], []
    for column in given["columns"]:
        name = column["type"]
        item = name.removeprefix("list<").removesuffix(">")
        if item not in types:
            raise KitError(f"there is no type {name!r}", where=column["name"])
        kind = pa.list_(types[item]) if name.startswith("list<") else types[item]
        try:
            arrays.append(pa.array(column["values"], kind))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise KitError(f"a value is no {name}: {error}", where=column["name"]) from None
        fields.append(pa.field(column["name"], kind))
    if len({len(array) for array in arrays}) > 1:
        raise KitError("the columns are not of one length")
    schema = pa.schema(fields)
    return {"logical_sha256": digest(pa.table(arrays, schema=schema), schema)}


def key_order(given: Json) -> Json:
    """First row that breaks strictly ascending key order."""
    import pyarrow as pa

    from harness.bundle.order import KeyOrder

    columns = given["columns"]
    order = KeyOrder(tuple(column["name"] for column in columns))
    kinds = {"string": pa.string(), "int64": pa.int64()}
    arrays = {c["name"]: pa.array(c["values"], kinds[c["type"]]) for c in columns}
    order.update(pa.table(arrays))
    row, problem = order.problem or (None, None)
    return {"row": row, "problem": problem}


def protocol_version(given: Json) -> Json:
    """Whether a reader takes a document of another version."""
    from harness.spec.versions import verdict

    return {"verdict": verdict(given["reader"], given["document"])}
