"""The anomaly plugin as a process of its own, killed in the middle of an incident."""

import os
import signal

from tests.support import wait_for
from trainbus.bus.client import Client
from trainbus.bus.events import Step
from trainbus.bus.publisher import Publisher


def test_an_incident_that_outlives_kill_9_of_the_plugin_is_still_one_alert(system):
    """Killed before it, in it and after it: one id, raised once and cleared; the state came back with the cursor.

    Each kill comes after the cursor was committed: what was read before does not come again, so that the state alone can know of it.
    """
    system.up("anomaly", anomaly={"figures": {"enabled": False}})
    publisher = Publisher("r", name="test", root=system.root)
    step = 0

    def publish(*losses):
        nonlocal step
        for loss in losses:
            step += 1
            publisher.publish(Step(step=step, metrics={"loss": loss}))
        assert publisher.flush(20.0)

    def kill():
        with Client(root=system.root) as client:
            head = max(event.offset for event in client.events(kinds=["step"]))
            wait_for(lambda: any(one.offset >= head for one in client.consumers() if "anomaly" in one.consumer), 60.0)
        status = system.wait_for_state("anomaly", "running")
        os.kill(status.pid, signal.SIGKILL)
        system.wait_for_state("anomaly", "running", not_pid=status.pid)

    def alerts():
        return [alert for alert in system.events("alert") if alert.plugin == "anomaly"]

    normal = [1.0 + 0.001 * (number % 7) for number in range(60)]
    publish(*normal)
    kill()
    publish(4.0, 4.1, 4.0)
    wait_for(alerts)
    kill()
    publish(4.0, 4.1)
    kill()
    publish(*normal)
    wait_for(lambda: [alert for alert in alerts() if alert.state == "cleared"])
    assert {alert.id for alert in alerts()} == {"loss_spike:loss:r:61"}
    assert [alert.state for alert in alerts()].count("raised") == 1
    assert alerts()[-1].evidence["count"] == 5
    publisher.close()
