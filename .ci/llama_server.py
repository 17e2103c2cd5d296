"""llama.cpp's own server on loopback, from the package xllamacpp on PyPI. usage: llama_server.py GGUF PORT"""

import sys
import time

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.port = int(sys.argv[2])
params.n_ctx = 4096
params.n_parallel = 4
params.cpuparams.n_threads = 2
params.model_alias = {"smol"}
params.use_jinja = True
server = xllamacpp.Server(params)
print("up", server.listening_address, flush=True)
while True:
    time.sleep(3600)
