"""The charts, by family: each a query's rows as Vega-Lite."""
