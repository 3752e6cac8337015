"""User records of the shape and size that `jobs/users/ingest.toml` makes of an answer of the users API: seeded, drawn from pools of a few
hundred words, so that they neither compress absurdly nor are noise."""

import json
import random
import uuid

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from harness import server

PARTITIONS = 4
FIRST_NAMES = "Zoë محمد پریا Chloé Ann Sofía José Jürgen Ólafur Søren آرمین فاطمة Léa Mia Noah Iben Lærke Nuño Aïda Oğuz Çağla Hélène Émile".split()
LAST_NAMES = "Müller الفارسي رضایی Lefèvre Smith García Núñez Øvergård Þórsson Şahin حسینی الخطيب Dupont Brown Jensen Roux Peña Ibáñez Kılıç".split()
SYLLABLES = "ba cor del fen gris hal jor kel lin mor nas ol pra quil ros sund tel ur ven wick".split()
COUNTRIES = ["France", "Iran", "Spain", "Denmark", "Türkiye", "Norway", "Germany", "United Kingdom", "New Zealand", "Canada"]


def words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices(SYLLABLES, k=rng.randrange(2, 4))).capitalize() for _ in range(count)]


def users(count: int, seed: int = 42):
    """Pairs of key and payload."""
    rng = random.Random(seed)
    cities, streets, states = words(rng, 400), words(rng, 800), words(rng, 60)
    for _ in range(count):
        key = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        login = f"{rng.choice(streets).lower()}{rng.choice(cities).lower()}{rng.randrange(1_000)}"
        country = rng.choice(COUNTRIES)
        digits = rng.randrange(10**10)
        street = f"{rng.randrange(1, 9_999)} {rng.choice(streets)} {rng.choice(('Road', 'Rue', 'Street', 'Gade'))}"
        user = {
            "id": key,
            "first_name": rng.choice(FIRST_NAMES),
            "last_name": rng.choice(LAST_NAMES),
            "gender": rng.choice(("female", "male")),
            "address": f"{street}, {rng.choice(cities)}, {rng.choice(states)}, {country}",
            "post_code": str(rng.randrange(10_000, 99_999)),
            "email": f"{login}@example.com",
            "username": login,
            "dob": moment(rng, 1945, 2005),
            "registered_date": moment(rng, 2002, 2024),
            "phone": f"{digits % 1_000:03}-{digits // 1_000 % 1_000:03}-{digits // 1_000_000:04}",
            "picture": f"https://randomuser.me/api/portraits/med/{rng.choice(('women', 'men'))}/{rng.randrange(100)}.jpg",
            "nationality": country[:2].upper(),
            "age": rng.randrange(18, 80),
            "latitude": f"{rng.uniform(-90, 90):.4f}",
            "longitude": f"{rng.uniform(-180, 180):.4f}",
        }
        yield key, json.dumps(user, ensure_ascii=False)


def moment(rng: random.Random, first: int, last: int) -> str:
    day = f"{rng.randrange(first, last)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
    return f"{day}T{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}.{rng.randrange(1_000):03}Z"


def create_topic(name: str):
    admin = AdminClient({"bootstrap.servers": server("POLYBOLOS_TEST_KAFKA")})
    for future in admin.create_topics([NewTopic(name, PARTITIONS, 1)]).values():
        future.result()


def producer(linger_ms: int) -> Producer:
    settings = {"compression.type": "lz4", "linger.ms": linger_ms, "queue.buffering.max.messages": 1_000_000}
    return Producer({"bootstrap.servers": server("POLYBOLOS_TEST_KAFKA"), **settings})


def fill(topic: str, count: int) -> float:
    """`count` user records in a new topic, acknowledged; answers their average size in bytes."""
    create_topic(topic)
    return send(topic, ((key, payload.encode(), index % PARTITIONS) for index, (key, payload) in enumerate(users(count)))) / count


def send(topic: str, records) -> int:
    """Keys, payloads and partitions, acknowledged; answers how many bytes the payloads have."""
    client = producer(20)
    refused = []
    total = 0

    def report(error, _):
        if error:
            refused.append(error)

    for index, (key, payload, partition) in enumerate(records):
        total += len(payload)
        while True:
            try:
                client.produce(topic, payload, key, partition=partition, on_delivery=report)
                break
            except BufferError:
                client.poll(0.1)
        if index % 100 == 0:
            client.poll(0)
    if client.flush(60) or refused:
        raise SystemExit(f"Kafka did not take every record: {refused[:1]}")
    return total
