"""One wire format a file: `routes(models) -> list[Route]`. Each reads its own bodies into serve.request.Request."""
