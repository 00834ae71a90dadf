"""oip.py - requests and answers of the Open Inference Protocol, from its text alone.

Tensors stand as JSON, or as binary data behind it.
"""
import json
import struct

import numpy as np

TYPES = {"BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
         "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2",
         "FP32": "<f4", "FP64": "<f8"}
HEADER = "Inference-Header-Content-Length"


def to_bytes(array, datatype):
    if datatype != "BYTES":
        return np.asarray(array, TYPES[datatype]).tobytes()
    texts = [t.encode() for t in np.asarray(array, object).reshape(-1)]
    return b"".join(struct.pack("<I", len(t)) + t for t in texts)


def from_bytes(data, datatype, shape):
    if datatype != "BYTES":
        return np.frombuffer(data, TYPES[datatype]).reshape(shape)
    texts = []
    while data:
        n = struct.unpack_from("<I", data)[0]
        texts.append(data[4:4 + n].decode())
        data = data[4 + n:]
    return np.array(texts, object).reshape(shape)


def pack(inputs, outputs=(), binary=(), **fields):
    """(body, headers). inputs: {name: (datatype, array)}; those named in `binary` go as bytes.
    outputs: names, or (name, binary)."""
    request, behind = {"inputs": [], **fields}, b""
    for name, (datatype, array) in inputs.items():
        array = np.asarray(array, object if datatype == "BYTES" else None)
        tensor = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if name in binary:
            data = to_bytes(array, datatype)
            tensor["parameters"] = {"binary_data_size": len(data)}
            behind += data
        else:
            tensor["data"] = array.tolist()
        request["inputs"].append(tensor)
    if outputs:
        pairs = [(o, False) if isinstance(o, str) else o for o in outputs]
        request["outputs"] = [{"name": name, **({"parameters": {"binary_data": b}} if b else {})}
                              for name, b in pairs]
    head = json.dumps(request).encode()
    if not behind:
        return head, {"Content-Type": "application/json"}
    return head + behind, {"Content-Type": "application/octet-stream", HEADER: str(len(head))}


def unpack(answer):
    """({name: array}, the JSON without its tensors), every length checked against the others"""
    length = answer.headers[HEADER]
    kind = "application/json" if length is None else "application/octet-stream"
    assert answer.headers["Content-Type"] == kind, answer
    head = answer.body if length is None else answer.body[:int(length)]
    behind = answer.body[len(head):]
    about, tensors = json.loads(head), {}
    for t in about.pop("outputs"):
        size = t.get("parameters", {}).get("binary_data_size")
        if size is None:
            data = [np.nan if v is None else v for v in t["data"]]
            kind = object if t["datatype"] == "BYTES" else TYPES[t["datatype"]]
            assert len(data) == int(np.prod(t["shape"])), t
            tensors[t["name"]] = np.array(data, kind).reshape(t["shape"])
        else:
            assert "data" not in t and size <= len(behind), t
            tensors[t["name"]] = from_bytes(behind[:size], t["datatype"], t["shape"])
            behind = behind[size:]
    assert not behind, f"{len(behind)} bytes are left"
    return tensors, about
