"""A process that writes: opts people out one by one, and prints each once it is recorded."""

import sys

from ndoo.publish.open import open_publisher
from support.people import opt_out

url, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
publisher = open_publisher(url)
for person in range(first, first + count):
    publisher.append([opt_out(person)], request_id=f"person-{person}")
    sys.stdout.write(f"{person}\n")
    sys.stdout.flush()
publisher.close()
