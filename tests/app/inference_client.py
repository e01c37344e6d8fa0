"""Unmodified tritonclient in a process of its own: `inference_client.py URL GRPC ROWS [CERTIFICATE KEY]`, to JSON."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient._plugin import InferenceServerClientPlugin
from tritonclient.utils import InferenceServerException


def inputs(library: Any, rows: list[dict[str, Any]]) -> list[Any]:
    def tensor(name: str, datatype: str, values: np.ndarray) -> Any:
        made = library.InferInput(name, [len(rows)], datatype)
        made.set_data_from_numpy(values)
        return made

    def texts(name: str) -> np.ndarray:
        return np.array([row[name].encode() for row in rows], object)

    return [
        tensor("visit_id", "BYTES", texts("visit_id")),
        tensor("site", "BYTES", texts("site")),
        tensor("at", "BYTES", texts("at")),
        tensor("x", "FP64", np.array([row["x"] for row in rows])),
    ]


def found(library: Any, client: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    model = client.get_model_repository_index()
    name = model[0]["name"] if library is triton_http else model.models[0].name
    described = client.get_model_metadata(name)
    version = described["versions"][0] if library is triton_http else described.versions[0]
    many = client.infer(name, inputs(library, rows), model_version=version)
    return {
        "model": name,
        "version": version,
        "ready": [client.is_server_live(), client.is_server_ready(), client.is_model_ready(name, version)],
        "scores": many.as_numpy("score").tolist(),
        "ids": [one.decode() for one in many.as_numpy("id")],
        "one_by_one": [client.infer(name, inputs(library, [row])).as_numpy("score")[0].item() for row in rows],
    }


class Key(InferenceServerClientPlugin):
    """Sends an API key with every request."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: Any) -> None:
        request.headers["authorization"] = f"Bearer {self._key}"


def refused(call: Any) -> str:
    try:
        call()
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    return "not refused"


def main(url: str, address: str, rows: list[dict[str, Any]], certificate: str | None, key: str | None) -> Any:
    place = url.partition("//")[2]
    out = {}
    for library in (triton_http, triton_grpc):
        more: dict[str, Any] = {}
        if certificate and library is triton_http:
            more = {"ssl": True, "ssl_options": {"ca_certs": certificate}}
        elif certificate:
            more = {"ssl": True, "root_certificates": certificate}
        with library.InferenceServerClient(place if library is triton_http else address, **more) as client:
            told: dict[str, Any] = {}
            if key:
                told["live"] = client.is_server_live()
                told["refused"] = refused(client.get_server_metadata)
                told["not_unloaded"] = refused(partial(client.unload_model, "buyer"))
                client.register_plugin(Key("trimtab_no_key"))
                asked = inputs(library, rows)
                told["unknown"] = refused(partial(client.infer, "buyer", asked))
                client.unregister_plugin()
                client.register_plugin(Key(key))
            out["http" if library is triton_http else "grpc"] = told | found(library, client, rows)
    return out


if __name__ == "__main__":
    url, address, rows, *secrets = sys.argv[1:]
    print(json.dumps(main(url, address, json.loads(rows), *(secrets or (None, None)))))
