"""`context.flush`: what a plugin has published is in the journal, also what a process of it left that is dead."""

from tests.support import wait_for

PUBLISHER = """
import signal

class P:
    '''Publishes 300 points and kills itself; its next process asks what the journal has.'''
    @hookimpl
    async def start(self, context):
        if (context.directory / "died").exists():
            flushed = await context.flush(60.0)
            found = sum([1 async for _ in context.aquery(kinds=["metric"])])
            context.publish(events.Metric(run="r", name="again", value=1.0))
            flushed = flushed and await context.flush(60.0)
            later = sum([1 async for _ in context.aquery(kinds=["metric"])])
            (context.directory / "found").write_text(f"{flushed} {found} {later} {bool(context.journal)}")

    @hookimpl
    def on_step(self, event, context):
        if not (context.directory / "died").exists():
            (context.directory / "died").touch()
            for number in range(300):
                context.publish(events.Metric(run="r", name="mine", value=float(number)))
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_published_is_there_before_its_successor_goes_on(site, system):
    """And what the successor itself published."""
    site.install("points", PUBLISHER)
    system.up("points")
    system.publish(1)
    found = system.root / "plugins" / "points" / "found"
    wait_for(lambda: found.exists() and found.read_text(), 60.0)
    assert found.read_text() == "True 300 301 True"
