"""OpenStack Swift with its S3 interface, whole in one process: usage: swift-s3.py FOLDER. Prints its port, then serves until it is ended.

Objects lie in memory, accounts and containers in FOLDER. The access key is test:tester, the secret key testing, the region eu-test-1.
"""

import os
import sys
import warnings

warnings.simplefilter("ignore")
import eventlet

eventlet.monkey_patch()
from eventlet import wsgi
from swift.common import utils
import swift.common.utils.config

folder = sys.argv[1]
devices = os.path.join(folder, "devices")
os.makedirs(os.path.join(devices, "d1"))


def write(name, text):
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(text)
    return path


settings = write("swift.conf", "[swift-hash]\nswift_hash_path_suffix = test\n")
utils.SWIFT_CONF_FILE = swift.common.utils.config.SWIFT_CONF_FILE = settings
utils.validate_hash_conf()

from swift.account.server import AccountController
from swift.common.ring import RingBuilder
from swift.common.wsgi import loadapp
from swift.container.server import ContainerController
from swift.obj.mem_server import ObjectController

kinds = {"account": AccountController, "container": ContainerController, "object": ObjectController}
for kind, controller in kinds.items():
    socket = eventlet.listen(("127.0.0.1", 0))
    ring = RingBuilder(4, 1, 0)
    place = {"ip": "127.0.0.1", "port": socket.getsockname()[1], "device": "d1"}
    ring.add_dev({"region": 1, "zone": 1, "weight": 1, "replication_ip": place["ip"], "replication_port": place["port"], **place})
    ring.rebalance()
    ring.get_ring().save(os.path.join(folder, kind + ".ring.gz"))
    app = controller({"devices": devices, "mount_check": "false", "swift_dir": folder})
    eventlet.spawn(wsgi.server, socket, app, log_output=False)

filters = ["catch_errors", "gatekeeper", "cache", "listing_formats", "s3api", "tempauth", "bulk", "slo"]
options = {
    "cache": "use = egg:swift#memcache\n",
    "s3api": "s3_acl = false\nlocation = eu-test-1\n",
    "tempauth": "user_test_tester = testing .admin\n",
}
proxy = f"[DEFAULT]\nswift_dir = {folder}\n[pipeline:main]\npipeline = {' '.join(filters)} proxy-server\n"
proxy += "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
for name in filters:
    proxy += f"[filter:{name}]\n" + (options.get(name, "") if name == "cache" else f"use = egg:swift#{name}\n" + options.get(name, ""))
app = loadapp(write("proxy.conf", proxy), global_conf={})
socket = eventlet.listen(("127.0.0.1", 0))
print(socket.getsockname()[1], flush=True)
with open(os.path.join(folder, "requests"), "w", buffering=1) as log:
    wsgi.server(socket, app, log=log, log_format='"%(request_line)s" %(status_code)s', keepalive=True)
