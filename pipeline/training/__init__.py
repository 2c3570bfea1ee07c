"""What every stage built on TRL's trainers shares: devices, models, data, callbacks, resume, hand-over."""
