"""The thing itself: model, tensor, roles, spec, schemes, layouts, store, steps, errors. Knows no format and no engine."""
