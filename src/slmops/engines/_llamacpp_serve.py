"""xllamacpp's own llama-server, for where there is no native one: `python -P _llamacpp_serve.py SETTINGS` (JSON, below).

Its Server takes the handlers of signals and, when it is torn down, the whole back end: so a process of its own. Stands alone
on purpose.
"""

import json
import os
import signal
import sys
import threading


def main() -> None:
    import xllamacpp

    asked = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = asked["file"]
    params.n_ctx, params.n_parallel = asked["context"] * asked["parallel"], asked["parallel"]
    params.n_threads_http = asked["parallel"] + 4
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["threads"]
    params.port, params.hostnames, params.api_keys = asked["port"], ["127.0.0.1"], [os.environ["LLAMA_API_KEY"]]
    params.endpoint_slots = params.ui = params.warmup = params.fit_params = False
    params.cache_ram_mib = asked["cache_mib"]
    params.verbosity = 1
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(file, 0.0) for file in asked["adapters"]]
    params.lora_init_without_apply = True
    if asked["device"] == "cpu":
        params.n_gpu_layers = 0
    if asked["kv"]:
        kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{asked['kv'].upper()}")
        params.cache_type_k = params.cache_type_v = kind
        if asked["kv"] == "q8_0":  # values with scales are for flash attention alone
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    if asked["embeds"]:
        params.embedding = True
        params.n_batch = params.n_ubatch = asked["context"]
        if asked["pools"]:
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    assert server.listening_address
    threading.Event().wait()


if __name__ == "__main__":
    main()
