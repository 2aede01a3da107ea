"""The server: one port for clients of several wire formats, in front of one worker process for each model.

    request.py    the one internal request, and what comes back of it
    stops.py      stop strings in a stream of pieces
    backend.py    what is needed of a model, wherever it is computed
    model.py      one model: its worker process, its bounded queue, and the requests in flight
    upstream/     one model that another server computes
    answer.py     what comes back of a request, event by event
    models.py     which models there are, and which are loaded
    access.py     who may ask: keys, hosts, sizes of bodies
    tools/        tool calls in a model's answer, one notation a file
    desk.py       what wire formats are given: admits a request, and tells every watcher (limits, metrics) what came of it
    wire/         one wire format a file, over the internal request
    page.py       the web page (files in web/, no build step) and what only it asks for; sessions.py, shelf.py
    app.py        the ASGI application

Engines compute in processes of their own (engines/_host.py): a crash fails its own requests alone, and the next one finds
a new process.
"""
