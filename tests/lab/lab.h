/* The lab's devices: what the config file says, and what their sensors would answer at a given instant.
 *
 * Every time is a whole number of microseconds of CLOCK_MONOTONIC, so all processes agree. Nothing here keeps
 * state between two reads: an answer is a pure function of (config, time).
 */
#ifndef LAB_H
#define LAB_H

#include "waveform.h"

#define LAB_MAX_DEVICES 64
#define LAB_MAX_MIG 7
#define LAB_TEXT 96

enum { /* nvmlReturn_t */
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    VERSION_MISMATCH = 25,
    UNKNOWN = 999
};

typedef enum {
    FAULT_FAIL,     /* value = return code, target = function, "field:83" or "*" */
    FAULT_STALL,    /* value = microseconds each matching call takes, target as above */
    FAULT_ZERO,     /* target reads 0 mW */
    FAULT_STUCK,    /* the energy counter shows what it showed at start */
    FAULT_RESET,    /* the energy counter restarts from 0 at start */
    FAULT_SHOW,     /* the energy counter (mJ) or power (mW) reads value, target = counter or power */
    FAULT_JUMP,     /* value more mJ on the energy counter */
    FAULT_OVERRIDE, /* target = key of a gauge (temp_c, sm_clock_mhz, ...), value = its value */
    FAULT_PROCESS   /* value = pid, target = compute or graphics, extra = MiB */
} fault_kind_t;

typedef struct {
    fault_kind_t kind;
    int64_t start, end, value, extra; /* in force for start <= now < end */
    char target[LAB_TEXT];
} fault_t;

/* A sensor's refresh schedule: tick k is at phase + k * period + (deterministic jitter of at most +-jitter). */
typedef struct {
    int64_t period, phase, jitter;
    uint64_t seed;
} schedule_t;

typedef enum {
    GAUGE_UTIL_PCT, /* -1: follows power */
    GAUGE_MEM_USED_MIB,
    GAUGE_TEMP_C,
    GAUGE_SM_CLOCK_MHZ,
    GAUGE_THROTTLE_BITS,
    GAUGE_POWER_LIMIT_MW,
    GAUGE_COUNT
} gauge_t;

typedef struct {
    char uuid[LAB_TEXT];
    int64_t memory_mib;
    int gpu_instance, compute_instance;
} mig_t;

typedef struct {
    char name[LAB_TEXT], uuid[LAB_TEXT], process_file[512];
    int64_t pci_bus, memory_mib, architecture, cc_major, cc_minor, persistence, ecc, mig_mode;
    int64_t limit_default_mw, limit_min_mw, limit_max_mw, sm_clock_max_mhz;
    int64_t gauges[GAUGE_COUNT];
    wave_t *waves;
    int n_waves;
    schedule_t counter, sensor;
    int64_t counter_offset_mj, average_us, instant_us, usage_is_instant;
    double counter_gain, power_gain, counter_extra_w, module_extra_w;
    int64_t noise_mw;
    uint64_t noise_seed;
    int64_t latency_us;
    fault_t *faults;
    int n_faults;
    mig_t mig[LAB_MAX_MIG];
    int n_mig;
} device_t;

typedef struct {
    int64_t t0;
    int64_t init_error;
    int64_t cuda_version;
    char driver[LAB_TEXT], nvml_version[LAB_TEXT], calls_path[512];
    device_t devices[LAB_MAX_DEVICES];
    int count;
} lab_t;

typedef enum { POWER_USAGE, POWER_AVERAGE, POWER_INSTANT } power_kind_t;

/* config.c: NULL (and a line on stderr) if the file cannot be read or a line is malformed. */
lab_t *lab_load(const char *path);
extern const char *const lab_gauge_names[GAUGE_COUNT];

/* sensor.c */
long double lab_energy_uj(const lab_t *lab, const device_t *d, int64_t at);
long double lab_watts(const lab_t *lab, const device_t *d, int64_t at);
int64_t lab_tick(const schedule_t *c, int64_t at, int64_t *index);
uint64_t lab_counter(const lab_t *lab, const device_t *d, int64_t at);
uint32_t lab_power(const lab_t *lab, const device_t *d, power_kind_t kind, int module, int64_t at);
int64_t lab_gauge(const lab_t *lab, const device_t *d, gauge_t g, int64_t at);
const fault_t *lab_fault(const device_t *d, fault_kind_t kind, const char *target, int64_t at);

#endif
