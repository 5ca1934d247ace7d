"""A fake accelerator: the host, with the manners of a device, and checks that no device makes.

`windlass.testing.fake.plugin` is its plugin module, `windlass.testing.fake.backend.FakeBackend` the
backend, `windlass.testing.fake.machine.Machine` what it runs on. See `docs/fake-accelerator.md`.
Importing this imports no torch.
"""
