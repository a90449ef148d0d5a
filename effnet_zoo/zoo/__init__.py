"""The ledger of checkpoints, and the catalogue of models that it and the families make. No torch."""
