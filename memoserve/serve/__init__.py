"""The evaluation service: a store over HTTP, runs that are submitted, watched and cancelled."""
