"""When each alert fires, and when it nearly does."""

from tests.docs.alert_stories import Case, gauges, line, metric

KEYS = {"kind": "dynamic", "state": "active"}
A_DAY = 86_400
R, RA = {"ring": "r"}, {"ring": "r", "instance": "a"}

CASES = (
    # --- rotation
    Case(
        "RingkeeperRotationOverdue",
        "a key that was due twenty minutes ago",
        gauges("next_rotation_timestamp_seconds", (40, 600)),
        31,
        (R,),
    ),
    Case(
        "RingkeeperRotationOverdue",
        "the leader died meanwhile, and the next one is no better",
        gauges("next_rotation_timestamp_seconds", (27, 600), (20, None))
        | gauges("next_rotation_timestamp_seconds", (29, None), (18, 600), instance="b"),
        31,
        (R,),
    ),
    Case(
        "RingkeeperRotationOverdue",
        "it turns nineteen minutes late: an instance was waited for",
        gauges("next_rotation_timestamp_seconds", (29, 600), (20, 4200)),
        49,
    ),
    Case(
        "RingkeeperRotationOverdue",
        "another leader turned it while the former one is still believed",
        gauges("next_rotation_timestamp_seconds", (60, 600))
        | gauges("next_rotation_timestamp_seconds", (11, None), (49, 7200), instance="b"),
        59,
    ),
    Case(
        "RingkeeperRotationFails",
        "changes fail for a quarter of an hour",
        gauges("rotation_failures_total", (16, "0+1"), reason="redis"),
        15,
        ({"ring": "r", "reason": "redis"},),
    ),
    Case(
        "RingkeeperRotationFails",
        "Redis is restarted",
        gauges("rotation_failures_total", (1, 0), (4, "0+1"), (25, 15), reason="redis"),
        30,
    ),
    Case(
        "RingkeeperNoActiveKey",
        "the static key alone is active",
        gauges("keys", (5, 1), (3, 0), **KEYS)
        | gauges("keys", (8, 1), kind="static", state="active"),
        7,
        (R | KEYS,),
    ),
    Case(
        "RingkeeperNoActiveKey",
        "it was revoked, and its successor signs at once",
        gauges("keys", (5, 1), (0.75, 0), (5, 1), **KEYS),
        10,
    ),
    Case(
        "RingkeeperNoActiveKey",
        "there is no active static key: it was revoked, and the next one is not ready",
        gauges("keys", (20, 1), **KEYS) | gauges("keys", (20, 0), kind="static", state="active"),
        19,
    ),
    Case(
        "RingkeeperNoActiveKey",
        "while leaders change",
        gauges("keys", (5, 1), (0.75, 0), (20, None), **KEYS)
        | gauges("keys", (6.25, None), (10, 0), instance="b", **KEYS),
        6.5,
        (R | KEYS,),
    ),
    Case(
        "RingkeeperNoStandby",
        "no other static key is ready: there need not be",
        gauges("keys", (20, 1), kind="dynamic", state="published")
        | gauges("keys", (20, 0), kind="static", state="published"),
        19,
    ),
    Case(
        "RingkeeperNoStandby",
        "none for six minutes",
        gauges("keys", (1, 1), (6, 0), kind="dynamic", state="published"),
        6.5,
        (R | {"kind": "dynamic", "state": "published"},),
    ),
    Case(
        "RingkeeperNoStandby",
        "none until Redis takes writes again",
        gauges("keys", (1, 1), (4.5, 0), (6, 1), kind="dynamic", state="published"),
        11,
    ),
    Case(
        "RingkeeperActivationForced",
        "one key, just now",
        gauges("activation_forced_total", (70, 0), (9, 1)),
        71,
        (R,),
    ),
    Case(
        "RingkeeperActivationForced",
        "before the daemon was scraped for the first time",
        gauges("activation_forced_total", (5, 1)),
        1,
        (R,),
    ),
    Case(
        "RingkeeperActivationForced",
        "two hours ago, and the daemon could not be scraped since, and then was restarted",
        gauges("activation_forced_total", (10, 0), (90, 1), (60, None), (60, 1), (60, 0)),
        270,
        since=80,
    ),
    Case(
        "RingkeeperInstancesBehind",
        "while leaders change",
        gauges("instances_behind", (6, 1), (20, None))
        | gauges("instances_behind", (6.5, None), (20, 2), instance="b"),
        11,
        (R,),
    ),
    Case(
        "RingkeeperInstancesBehind",
        "one confirms after nine minutes",
        gauges("instances_behind", (1, 0), (9, 1), (20, 0)),
        29,
    ),
    # --- leading
    Case(
        "RingkeeperNoLeader",
        "both stand by",
        gauges("leader", (10, 0)) | gauges("leader", (10, 0), instance="b"),
        6,
        (R,),
    ),
    Case(
        "RingkeeperNoLeader",
        "all daemons of the ring are gone, and another ring is led",
        gauges("leader", (10, 1), (20, None)) | gauges("leader", (30, 1), ring="other"),
        16,
        (R,),
    ),
    Case(
        "RingkeeperNoLeader",
        "the one daemon is moved to another host in four minutes",
        gauges("leader", (10, 1), (20, None))
        | gauges("leader", (14, None), (0.75, 0), (15, 1), instance="b"),
        29,
    ),
    Case(
        "RingkeeperNoLeader",
        "nobody can lead while Redis is down: that is told",
        gauges("leader", (20, 0)) | gauges("redis_up", (20, 0)),
        19,
    ),
    Case(
        "RingkeeperNoLeader",
        "a ring was given up a day ago",
        gauges("leader", (10, 1), (600, None)) | gauges("leader", (900, 1), ring="other"),
        600,
        since=380,
    ),
    Case(
        "RingkeeperLeadershipFlaps",
        "two daemons take the lease from one another",
        gauges("leader_transitions_total", (40, "0+0.05"))
        | gauges("leader_transitions_total", (40, "0+0.05"), instance="b"),
        35,
        (R,),
    ),
    Case(
        "RingkeeperLeadershipFlaps",
        "three daemons are restarted one after another, twice",
        {
            metric("leader_transitions_total", name): line(
                (10 + after, 0), (0.5, None), (10, 0), (1, 1), (0.5, None), (30, 0), (40, 1)
            )
            for name, after in (("a", 0), ("b", 1), ("c", 2))
        }
        | {
            metric("leader_transitions_total", f"{name}{turn}"): line((9, 0), (60, f"{turn}"))
            for turn in (1,)
            for name in ("x", "y", "z")
        },
        59,
    ),
    Case(
        "RingkeeperProofOld",
        "a quarter of an hour without a proof",
        gauges("proof_age_seconds", (30, "0+15")) | gauges("proof_age_seconds", (30, "0+15"), instance="b"),
        17,
        (R,),
    ),
    Case(
        "RingkeeperProofOld",
        "one daemon hears nothing, and the other does",
        gauges("proof_age_seconds", (60, "0+15")) | gauges("proof_age_seconds", (60, 59), instance="b"),
        59,
    ),
    Case(
        "RingkeeperProofOld",
        "proofs come again after a little more than that",
        gauges("proof_age_seconds", (15.75, "0+15"), (20, 30)),
        33,
    ),
    Case(
        "RingkeeperHealed",
        "by a daemon that was just started: it is the first thing that it did",
        gauges("heals_total", (5, None), (10, 1)),
        6,
        (R,),
    ),
    Case(
        "RingkeeperHealed",
        "and the leader is another one since",
        gauges("heals_total", (70, 0), (5, 1), (30, None)) | gauges("heals_total", (100, 0), instance="b"),
        80,
        (R,),
    ),
    Case(
        "RingkeeperHealed",
        "more than an hour ago; others were restarted since",
        gauges("heals_total", (10, 0), (190, 1))
        | gauges("heals_total", (100, 0), (1, None), (99, 0), instance="b"),
        199,
        since=75,
    ),
    Case(
        "RingkeeperHealed",
        "more than an hour ago, and the daemon could not be scraped for an hour since",
        gauges("heals_total", (10, 0), (60, 1), (60, None), (60, 1)),
        185,
        since=75,
    ),
    # --- daemons
    Case(
        "RingkeeperRedisDown",
        "for all daemons",
        gauges("redis_up", (10, 0)) | gauges("redis_up", (10, 0), instance="b"),
        6,
        (R,),
    ),
    Case(
        "RingkeeperRedisDown",
        "a restart that takes four minutes",
        gauges("redis_up", (5, 1), (4.5, 0), (9, 1)),
        18,
    ),
    Case(
        "RingkeeperRedisDown",
        "for one of two",
        gauges("redis_up", (20, 0)) | gauges("redis_up", (20, 1), instance="b"),
        19,
    ),
    Case(
        "RingkeeperRedisUnreachable",
        "for one of two, with a moment in which it worked",
        gauges("redis_up", (4, 0), (0.5, 1), (10, 0)) | gauges("redis_up", (20, 1), instance="b"),
        6,
        (RA,),
    ),
    Case(
        "RingkeeperRedisUnreachable",
        "for all: another alert says so",
        gauges("redis_up", (20, 0)) | gauges("redis_up", (20, 0), instance="b"),
        19,
    ),
    Case(
        "RingkeeperRedisUnreachable",
        "for less than three minutes",
        gauges("redis_up", (5, 1), (2.75, 0), (9, 1)) | gauges("redis_up", (20, 1), instance="b"),
        16,
    ),
    Case(
        "RingkeeperKekUnreadable",
        "two that cannot lead stand by for one another in between",
        gauges("trouble", *[(0.25, 1), (0.75, 0)] * 8, kind="secret"),
        6,
        (RA | {"kind": "secret"},),
    ),
    Case(
        "RingkeeperKekUnreadable",
        "the file cannot be read any more",
        gauges("config_last_reload_successful", (2, 1), (8, 0), ring="", what="secrets"),
        8,
        ({"instance": "a", "what": "secrets"},),
    ),
    Case(
        "RingkeeperKekUnreadable",
        "a new one reaches this host a little later",
        gauges("config_last_reload_successful", (2, 1), (4.5, 0), (9, 1), ring="", what="secrets")
        | gauges("trouble", (2, 0), (2.75, 1), (9, 0), kind="secret"),
        15,
    ),
    Case(
        "RingkeeperKekUnreadable",
        "it is the configuration that was rejected",
        gauges("config_last_reload_successful", (20, 0), ring="", what="configuration"),
        19,
    ),
    Case(
        "RingkeeperKekUnreadable",
        "it is something else that is wrong",
        gauges("trouble", (20, 1), kind="clock"),
        19,
    ),
    Case(
        "RingkeeperTrouble",
        "clocks that differ, told of in turns",
        gauges("trouble", *[(0.25, 1), (0.75, 0)] * 8, kind="clock")
        | gauges("redis_up", (20, 1)),
        6,
        (RA | {"kind": "clock"},),
    ),
    Case(
        "RingkeeperTrouble",
        "what a ring without Redis has is Redis' trouble",
        gauges("trouble", (20, 1), kind="leading") | gauges("redis_up", (20, 0)),
        19,
    ),
    Case(
        "RingkeeperTrouble",
        "what a daemon without its KEK has is the KEK's",
        gauges("trouble", (20, 1), kind="leading") | gauges("trouble", (20, 1), kind="secret"),
        19,
    ),
    Case(
        "RingkeeperTrouble",
        "Redis was emptied, and the ring is healed",
        gauges("trouble", (5, 0), (2.75, 1), (9, 0), kind="missing") | gauges("redis_up", (20, 1)),
        16,
    ),
    Case(
        "RingkeeperConfigurationRejected",
        "an edited file",
        gauges("config_last_reload_successful", (1, 1), (9, 0), ring="", what="configuration"),
        7,
        ({"instance": "a", "what": "configuration"},),
    ),
    Case(
        "RingkeeperConfigurationRejected",
        "saved once more after four minutes",
        gauges("config_last_reload_successful", (1, 1), (4.5, 0), (9, 1), ring="", what="configuration"),
        14,
    ),
    Case(
        "RingkeeperConfigurationRejected",
        "it is the secrets: another alert says so",
        gauges("config_last_reload_successful", (20, 0), ring="", what="secrets"),
        19,
    ),
    Case(
        "RingkeeperConfigurationDrift",
        "one of three daemons kept its former file",
        gauges("configuration_drift", (2, 0), (20, 1)),
        18,
        ({"ring": "r"},),
    ),
    Case(
        "RingkeeperConfigurationDrift",
        "a new file reaches them one after the other",
        gauges("configuration_drift", (2, 0), (4, 2), (4, 1), (9, 0)),
        19,
    ),
    Case(
        "RingkeeperCertificateExpires",
        "within the week",
        gauges("certificate_expiry_timestamp_seconds", (60, 7 * A_DAY + 600), ring="", file="cert"),
        21,
        ({"instance": "a", "file": "cert"},),
    ),
    Case(
        "RingkeeperCertificateExpires",
        "renewed in time",
        gauges(
            "certificate_expiry_timestamp_seconds",
            (19, 7 * A_DAY + 600), (40, 90 * A_DAY),
            ring="", file="ca",
        ),
        58,
    ),
    Case(
        "RingkeeperFileWritesFail",
        "a disk that stays full",
        gauges("file_writes_total", (20, "0+0.25"), result="failure"),
        12,
        (RA,),
    ),
    Case(
        "RingkeeperFileWritesFail",
        "a file of somebody else's stands there",
        gauges("trouble", *[(0.25, 1), (0.75, 0)] * 15, kind="files"),
        12,
        (RA | {"kind": "files"},),
    ),
    Case(
        "RingkeeperTrouble",
        "with its files, of which another alert tells",
        gauges("trouble", (15, 1), kind="files"),
        12,
    ),
    Case(
        "RingkeeperFileWritesFail",
        "a disk that was full for four minutes",
        gauges("file_writes_total", (1, 0), (4, "0+1"), (25, 15), result="failure"),
        29,
    ),
    Case(
        "RingkeeperFileWritesFail",
        "it works, and often",
        gauges("file_writes_total", (30, "0+1"), result="success")
        | gauges("file_writes_total", (30, 0), result="failure"),
        29,
    ),
    Case(
        "RingkeeperFileWritesFail",
        "it is another file, and other trouble",
        gauges("trouble", (30, 1), kind="state"),
        29,
    ),
    Case(
        "RingkeeperOnChangeFails",
        "nobody is there to be told",
        gauges("on_change_total", (20, "0+0.25"), result="failure"),
        12,
        (RA,),
    ),
    Case(
        "RingkeeperOnChangeFails",
        "what it reloads was restarted",
        gauges("on_change_total", (1, 0), (4, "0+1"), (25, 15), result="failure"),
        29,
    ),
    Case(
        "RingkeeperOnChangeFails",
        "it works, and often",
        gauges("on_change_total", (30, "0+1"), result="success")
        | gauges("on_change_total", (30, 0), result="failure"),
        29,
    ),
    Case(
        "RingkeeperHttpRefuses",
        "again and again",
        gauges("http_refused_total", (20, "0+1"), ring="", reason="rate"),
        12,
        ({"instance": "a", "reason": "rate"},),
    ),
    Case(
        "RingkeeperHttpRefuses",
        "a burst of four minutes",
        gauges("http_refused_total", (1, 0), (4, "0+1"), (25, 15), ring="", reason="crowded"),
        29,
    ),
    Case(
        "RingkeeperHttpRefuses",
        "requests that are no requests",
        gauges("http_refused_total", (30, "0+1"), ring="", reason="malformed"),
        29,
    ),
    Case(
        "RingkeeperTargetDown",
        "one of two",
        gauges("up", (1, 1), (20, 0), ring="") | gauges("up", (30, 1), ring="", instance="b"),
        12,
        ({"instance": "a"},),
    ),
    Case(
        "RingkeeperTargetDown",
        "a host that is restarted",
        gauges("up", (1, 1), (9, 0), (9, 1), ring=""),
        18,
    ),
    Case(
        "RingkeeperTargetDown",
        "it is a daemon of another kind",
        gauges("up", (20, 0), ring="", job="node"),
        19,
    ),
    Case(
        "RingkeeperTargetAbsent",
        "all are down",
        gauges("up", (1, 1), (9, 0), ring="")
        | gauges("up", (1, 1), (9, 0), ring="", instance="b")
        | gauges("up", (10, 1), ring="", job="node"),
        7,
        ({},),
    ),
    Case(
        "RingkeeperTargetAbsent",
        "Prometheus finds none any more",
        gauges("up", (1, 1), (9, None), ring=""),
        7,
        ({},),
    ),
    Case(
        "RingkeeperTargetAbsent",
        "one of two is down",
        gauges("up", (20, 0), ring="") | gauges("up", (20, 1), ring="", instance="b"),
        19,
    ),
    Case(
        "RingkeeperTargetAbsent",
        "the only one is moved in four minutes",
        gauges("up", (1, 1), (4.5, 0), (9, 1), ring=""),
        14,
    ),
    # --- refreshes
    Case(
        "RingkeeperRefreshSpike",
        "while it lasts",
        gauges("refresh_spike_active", (2, 0), (3, 1))
        | gauges("refresh_spike_peak_ratio", (2, 0), (3, 8)),
        2.5,
        (R,),
    ),
    Case(
        "RingkeeperRefreshSpike",
        "it is over, and still the newest one",
        gauges("refresh_spike_active", (20, 0)) | gauges("refresh_spike_peak_ratio", (20, 8)),
        19,
    ),
    Case(
        "RingkeeperUnknownKid",
        "three in ten",
        gauges("session_refreshes_total", (20, "0+3"), reason="unknown_kid")
        | gauges("session_refreshes_total", (20, "0+7"), reason="expired"),
        16,
        (R,),
    ),
    Case(
        "RingkeeperUnknownKid",
        "seven in a hundred",
        gauges("session_refreshes_total", (60, "0+3"), reason="unknown_kid")
        | gauges("session_refreshes_total", (60, "0+40"), reason="expired"),
        59,
    ),
    Case(
        "RingkeeperUnknownKid",
        "somebody tries for a minute",
        gauges("session_refreshes_total", (1, 0), (1, "0+40"), (58, 120), reason="unknown_kid"),
        59,
    ),
    Case(
        "RingkeeperUnknownKid",
        "all of them, and yet few",
        gauges("session_refreshes_total", (60, "0+1"), reason="unknown_kid")
        | gauges("session_refreshes_total", (60, 0), reason="expired"),
        59,
    ),
    Case(
        "RingkeeperUnknownKid",
        "one in six, and yet few",
        gauges("session_refreshes_total", (60, "0+1"), reason="unknown_kid")
        | gauges("session_refreshes_total", (60, "0+5"), reason="expired"),
        59,
    ),
)  # fmt: skip
