"""Test an installed wheel: configure, check, serve, stream.  usage: smoke.py PATH_OF_SIDECAR"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request

SIDECAR = os.path.abspath(sys.argv[1])


def started(folder, *arguments):
    process = subprocess.Popen([SIDECAR, *arguments], stdout=subprocess.PIPE, text=True, cwd=folder)
    line = process.stdout.readline().strip()
    print(line)
    return process, line.rpartition(" ")[2]


def main():
    with tempfile.TemporaryDirectory() as folder:
        shipped = subprocess.run([SIDECAR, "config"], check=True, capture_output=True, text=True).stdout
        path = os.path.join(folder, "sidecar.toml")
        with open(path, "w") as file:
            file.write(shipped)
        subprocess.run([SIDECAR, "check", "--config", path], check=True)
        unreachable = {**os.environ, "SIDECAR_STORE": "redis://127.0.0.1:1/0"}
        usage = subprocess.run([SIDECAR, "usage"], env=unreachable, capture_output=True, text=True, cwd=folder)
        assert (usage.returncode, "see that it runs" in usage.stderr) == (1, True), usage.stderr
        mock, upstream = started(folder, "mock", "--port", "0")
        sidecar, address = started(folder, "serve", "--config", path, "--upstream", upstream, "--port", "0")
        try:
            body = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
            request = urllib.request.Request(address + "/api/chat", body, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                events = answer.read().decode().split("\n\n")
            assert events[0] == "event: start\ndata: ", events[0]
            assert events[-2] == "event: done\ndata: ", events[-2]
            assert 'event: token\ndata: " tok0"' in events
        finally:
            sidecar.terminate()
            mock.terminate()
            codes = [sidecar.wait(30), mock.wait(30)]
        assert codes == [0, 0], codes
    print("the installed wheel works")


main()
