"""What the seeded environments consist of: organizations, price plans, ticket scenarios, names. Data only."""

from typing import NamedTuple


class Shape(NamedTuple):
    """One organization; `devices` are its servers, workstations and laptops.

    `contracts` are "plan version first-day" in order of time: the first local day is "long ago", "1st" of the last
    month, or the last such day of a month that is over ("12th", "17th"). `tax` is category, rate and number; `basis` is
    that of its devices.
    """

    slug: str
    name: str
    time_zone: str
    devices: tuple[int, int, int]
    technicians: int
    customers: int
    tickets: int
    contracts: tuple[tuple[str, int, str], ...]
    address: tuple[str, ...]
    tax: tuple[str, str, str | None] = ("O", "0", None)
    basis: str = "reporting"
    targets: tuple[str, ...] = ("low", "normal", "high", "urgent")


AORAKI = Shape(
    slug="aoraki",
    name="Aoraki Managed IT",
    time_zone="Pacific/Auckland",
    devices=(6, 12, 8),
    technicians=3,
    customers=4,
    tickets=32,
    contracts=(("Essential", 1, "long ago"), ("Essential", 2, "1st")),
    address=("12 Quay Street", "Auckland 1010", "New Zealand"),
    tax=("S", "15", "GST 49-091-850"),
    basis="registered",  # also the silent ones
    targets=("normal", "high", "urgent"),  # nothing is promised for low priority
)
HAVELLAND = Shape(
    slug="havelland",
    name="Havelland Systemhaus",
    time_zone="Europe/Berlin",
    devices=(9, 18, 11),
    technicians=4,
    customers=6,
    tickets=48,
    contracts=(("Professional", 1, "long ago"), ("Professional", 2, "17th")),
    address=("Lindenstraße 8", "14467 Potsdam", "Germany"),
    tax=("S", "19", "DE 136695976"),
)
REDWOOD = Shape(
    slug="redwood",
    name="Redwood Clinics",
    time_zone="America/Los_Angeles",
    devices=(12, 26, 18),
    technicians=6,
    customers=10,
    tickets=72,
    contracts=(("Business", 2, "long ago"), ("Enterprise", 1, "12th")),  # another plan in the middle of a month
    address=("400 Marine Way", "Eureka, CA 95501", "USA"),
)
NORTH = Shape(
    "north",
    "North Test",
    "Asia/Kolkata",
    (1, 1, 1),
    2,
    1,
    12,
    (("Basic", 1, "long ago"), ("Basic", 2, "17th")),
    ("Kochi",),
)
SOUTH = Shape(
    slug="south",
    name="South Test",
    time_zone="America/New_York",
    devices=(1, 1, 0),
    technicians=2,
    customers=1,
    tickets=10,
    contracts=(("Plus", 1, "long ago"),),
    address=("Albany",),
    targets=("high",),
)

ENVIRONMENTS = {"demo": (AORAKI, HAVELLAND, REDWOOD), "testing": (NORTH, SOUTH)}

PRICES = (
    "base_fee",
    "device_month_price",
    "storage_gb_month_price",
    "backup_gb_month_price",
    "api_calls_included",
    "api_calls_thousand_price",
)
# plan -> (currency, the PRICES of version 1, of version 2)
PLANS = {
    "Essential": ("NZD", "49.00 4.5000 0.1200 0.0600 10000 0.4000", "59.00 4.9000 0.1150 0.0550 15000 0.3800"),
    "Professional": ("EUR", "99.00 3.9000 0.0990 0.0450 50000 0.2900", "109.00 3.7500 0.0945 0.0425 75000 0.2750"),
    "Business": ("USD", "129.00 3.5000 0.0900 0.0400 100000 0.2500", "135.00 3.4500 0.0875 0.0395 120000 0.2400"),
    "Enterprise": ("USD", "399.00 2.9500 0.0725 0.0333 500000 0.1500", "419.00 2.8500 0.0700 0.0325 600000 0.1400"),
    "Basic": ("USD", "10.00 1.0000 0.1000 0.0500 10 0.5000", "12.00 1.1000 0.1100 0.0550 10 0.5500"),
    "Plus": ("USD", "20.00 2.0000 0.2000 0.1000 20 0.2500", "24.00 2.2000 0.2200 0.1100 20 0.2750"),
}

# priority -> (minutes to the first response, to the resolution)
TARGETS = {"low": (480, 4320), "normal": (240, 1440), "high": (60, 480), "urgent": (15, 240)}


class Scenario(NamedTuple):
    """A ticket's story: when it is created, its steps with the minutes before each, and its weight."""

    created: str
    steps: str
    weight: int


SCENARIOS = {
    "met": Scenario("any", "4 assign, 5 respond, 60 resolved, 45 closed", 8),
    "breached": Scenario("any", "320 assign, 400 respond, 5200 resolved, 700 closed", 3),
    "night": Scenario("23:40 local", "15 assign, 10 respond, 430 comment, 60 resolved, 30 closed", 2),
    "midnight UTC": Scenario("23:50 UTC", "3 assign, 4 respond, 20 resolved, 5 closed", 2),
    "weekend": Scenario("friday", "30 assign, 3840 respond, 120 resolved, 60 closed", 2),
    "month end": Scenario("month end", "60 assign, 90 respond, 900 resolved, 300 closed", 1),
    "reopened": Scenario(
        "any", "10 assign, 20 respond, 200 resolved, 60 closed, 1500 open, 240 resolved, 60 closed", 2
    ),
    "unassigned": Scenario("any", "90 comment", 1),
    "no response": Scenario("any", "45 assign", 1),
    "new": Scenario("any", "", 1),
    "escalated": Scenario("any", "30 assign, 40 respond, 60 escalate, 30 reassign, 180 resolved, 30 closed", 2),
    "pending": Scenario("any", "12 assign, 15 respond, 30 pending, 2900 open, 90 resolved, 2880 closed", 2),
}

GIVEN = ("Ana", "Ben", "Chloé", "Dinesh", "Emma", "Finn", "Hana", "Igor", "Júlia", "Kofi", "Lena", "Mateo", "Noor")
FAMILY = ("Anders", "Brandt", "Castillo", "Dube", "Eriksen", "Fischer", "Gupta", "Hughes", "Ito", "Keller", "Moana")
# kind -> (start of the hostname, operating systems)
KINDS = {
    "server": ("srv", ("Windows Server 2022", "Ubuntu 24.04 LTS", "Debian 12")),
    "workstation": ("ws", ("Windows 11 Pro 23H2", "Windows 10 Pro 22H2", "Ubuntu 24.04 LTS")),
    "laptop": ("lap", ("Windows 11 Pro 23H2", "macOS 14.6", "macOS 15.1")),
}
SUBJECTS = (
    "Printer does not print",
    "VPN drops every hour",
    "Disk almost full",
    "Mailbox not syncing",
    "New starter needs an account",
    "Backup failed last night",
    "Slow after the update",
    "Cannot open shared folder",
)
ALERTS = (
    ("cpu_high", "warning", "CPU above 95 % for 15 minutes"),
    ("disk_full", "critical", "Less than 5 % of the disk is free"),
    ("offline", "warning", "No heartbeat for 30 minutes"),
    ("patch_missing", "info", "A security update is not installed"),
)
SCRIPTS = (
    ("Restart print spooler", "powershell", "Restart-Service Spooler"),
    ("Disk report", "bash", "df -h"),
    ("Count processes", "python", "import psutil\nprint(len(psutil.pids()))"),
)
