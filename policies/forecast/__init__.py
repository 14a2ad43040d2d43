"""Forecasts of a link's rate: several models a link, judged by what came, answered as a band over a horizon."""
