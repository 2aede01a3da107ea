"""The server: one port for clients of several wire formats, in front of one worker process for each model.

    request.py    the one internal request, and what comes back of it
    answer.py     what comes back of a request, event by event; thoughts.py: what is thought before it is said
    backend.py    what is needed of a model, wherever it is computed
    model.py      one model: its worker process, its bounded queue, and the requests in flight (flight.py)
    upstream/     one model that another server computes
    names.py      what the names in requests lead to; setup.py: the file that says it
    models.py     which models there are, and which are loaded; held.py, room.py: what one of them takes; adapters.py: theirs
    tools/        tool calls in a model's answer, one notation a file
    desk.py       what wire formats are given: admits a request, and tells every watcher what came of it
    limits.py, metrics.py, telemetry.py, audit.py (over chain.py)   watchers
    wire/         one wire format a file, over the internal request
    faults.py     what is wrong with a request, for each format to say in its form
    access.py     who may ask, by keys.py, tokens.py, sessions.py; rights.py: the one table of who may use which route
    connection.py, tls.py, logs.py   around every request
    page.py       the web page (files in web/, no build step); shelf.py: what it shows of the registry
    health.py     is it alive, has it started, is it ready
    app.py        the ASGI application; starting.py answers health until it is made

Engines compute in processes of their own (engines/_host.py): a crash fails its own requests alone, and the next one finds
a new process.
"""
