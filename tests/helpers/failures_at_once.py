"""A pytest plugin: a failure is told in full when it happens, so that a run that is stopped leaves what it found."""


class _Teller:
    def __init__(self, plugins):
        self.plugins = plugins

    def pytest_runtest_logreport(self, report):
        if report.failed:
            terminal = self.plugins.getplugin("terminalreporter")
            terminal.write_line(f"\n{report.nodeid}, {report.when}:\n{report.longreprtext}")
            terminal.flush()


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # those of pytest-xdist have no terminal
        config.pluginmanager.register(_Teller(config.pluginmanager))
