"""How an agent runs tasks: processes now, other backends behind the same interface."""
