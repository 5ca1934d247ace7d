"""The engine: scheduler, block manager, step loop and front ends. No torch in here."""
