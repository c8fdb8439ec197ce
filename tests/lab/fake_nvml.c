/* A libnvidia-ml.so.1 that plays known power waveforms: life cycle, the way into each call, power and energy.
 *
 * A model written from documents and papers, not a GPU: see README.md beside this file.
 */
#define _GNU_SOURCE
#include "api.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { FIELD_TOTAL_ENERGY = 83, FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186 };
enum { SCOPE_GPU = 0, SCOPE_MODULE = 1 };
enum { VALUE_UINT = 1, VALUE_ULONGLONG = 3 };
enum { SPIN_BELOW_US = 200 }; /* a sleep this short would overshoot by the timer slack */

typedef struct {
    uint32_t fieldId, scopeId;
    int64_t timestamp, latencyUsec;
    int32_t valueType, nvmlReturn;
    union {
        double dVal;
        uint32_t uiVal;
        unsigned long long ullVal;
    } value;
} field_value_t;

typedef struct {
    char name[56];
    _Atomic uint64_t calls;
} call_count_t;

static const char *const FUNCTION_NAMES[] = {
#define X(name) #name,
    LAB_FUNCTIONS(X)
#undef X
};

/* A reload leaves the old config in place for a thread that is reading it: a few kilobytes each, never freed. */
static lab_t *_Atomic current;
static _Atomic int references;
static call_count_t *_Atomic calls;
static handle_t handles[LAB_MAX_DEVICES][LAB_MAX_MIG + 1];

static int64_t clock_us(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void wait_until(int64_t deadline_us)
{
    for (;;) {
        int64_t left = deadline_us - clock_us(CLOCK_MONOTONIC);
        if (left <= 0) return;
        if (left < SPIN_BELOW_US) continue;
        struct timespec ts = {deadline_us / 1000000, deadline_us % 1000000 * 1000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
    }
}

static void open_call_counts(const char *path)
{
    if (!*path || calls) return;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    size_t size = F_COUNT * sizeof(call_count_t);
    if (fd < 0) return;
    if (!ftruncate(fd, (off_t)size)) {
        call_count_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) {
            for (int i = 0; i < F_COUNT; i++) snprintf(map[i].name, sizeof map[i].name, "%s", FUNCTION_NAMES[i]);
            calls = map;
        }
    }
    close(fd);
}

const handle_t *lab_handle(int device, int mig)
{
    handles[device][mig + 1] = (handle_t){device, mig};
    return &handles[device][mig + 1];
}

int lab_copy_text(char *to, unsigned length, const char *text)
{
    if (!to || length <= strlen(text)) return INSUFFICIENT_SIZE;
    memcpy(to, text, strlen(text) + 1);
    return OK;
}

int lab_enter_system(function_t fn, const lab_t **lab)
{
    if (calls) atomic_fetch_add(&calls[fn].calls, 1);
    *lab = current;
    return references > 0 && current ? OK : UNINITIALIZED;
}

int lab_enter(function_t fn, const handle_t *handle, call_t *call)
{
    const char *name = FUNCTION_NAMES[fn];
    int rc = lab_enter_system(fn, &call->lab);
    if (rc) return rc;
    if (handle < &handles[0][0] || handle > &handles[LAB_MAX_DEVICES - 1][LAB_MAX_MIG]) return INVALID_ARGUMENT;
    if (handle->device >= call->lab->count) return INVALID_ARGUMENT;
    const device_t *d = call->device = &call->lab->devices[handle->device];
    call->mig = handle->mig < 0 ? NULL : &d->mig[handle->mig];
    call->now = clock_us(CLOCK_MONOTONIC);
    const fault_t *stall = lab_fault(d, FAULT_STALL, name, call->now);
    int64_t latency = d->latency_us + (stall ? stall->value : 0);
    if (latency > 0) {
        /* The driver looks at its sensor somewhere inside the call; the model says half way. */
        int64_t entered = call->now;
        wait_until(entered + latency / 2);
        call->now = clock_us(CLOCK_MONOTONIC);
        wait_until(entered + latency);
    }
    const fault_t *fail = lab_fault(d, FAULT_FAIL, name, call->now);
    return fail ? (int)fail->value : OK;
}

int lab_enter_whole(function_t fn, const handle_t *handle, call_t *call)
{
    int rc = lab_enter(fn, handle, call);
    return rc ? rc : call->mig ? NOT_SUPPORTED : OK;
}

EXPORT int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    const char *path = getenv("KIT_LAB_NVML");
    lab_t *loaded = path && *path ? lab_load(path) : NULL;
    if (!path || !*path) return DRIVER_NOT_LOADED;
    if (!loaded) return UNKNOWN;
    if (loaded->init_error) return (int)loaded->init_error;
    open_call_counts(loaded->calls_path);
    if (calls) atomic_fetch_add(&calls[F_nvmlInitWithFlags].calls, 1);
    current = loaded;
    references++;
    return OK;
}

EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT int nvmlShutdown(void)
{
    const lab_t *lab;
    int rc = lab_enter_system(F_nvmlShutdown, &lab);
    if (!rc) references--;
    return rc;
}

static uint32_t power_or_zero(const call_t *c, power_kind_t kind, int module, const char *target)
{
    return lab_fault(c->device, FAULT_ZERO, target, c->now) ? 0
                                                            : lab_power(c->lab, c->device, kind, module, c->now);
}

static int read_field(const call_t *c, field_value_t *f)
{
    char target[24];
    snprintf(target, sizeof target, "field:%u", f->fieldId);
    const fault_t *fail = lab_fault(c->device, FAULT_FAIL, target, c->now);
    if (fail) return (int)fail->value;
    if (c->mig) return NOT_SUPPORTED;
    int module = f->scopeId == SCOPE_MODULE && c->device->module_extra_w > 0;
    switch (f->fieldId) {
    case FIELD_TOTAL_ENERGY:
        f->valueType = VALUE_ULONGLONG;
        f->value.ullVal = lab_counter(c->lab, c->device, c->now);
        return OK;
    case FIELD_POWER_AVERAGE:
    case FIELD_POWER_INSTANT:
        if (f->scopeId != SCOPE_GPU && !module) return NOT_SUPPORTED;
        f->valueType = VALUE_UINT;
        f->value.ullVal = 0;
        f->value.uiVal =
            power_or_zero(c, f->fieldId == FIELD_POWER_AVERAGE ? POWER_AVERAGE : POWER_INSTANT, module, target);
        return OK;
    }
    return NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetFieldValues(const handle_t *handle, int count, field_value_t *values)
{
    call_t c;
    int64_t before = clock_us(CLOCK_MONOTONIC);
    int rc = lab_enter(F_nvmlDeviceGetFieldValues, handle, &c);
    if (rc) return rc;
    if (count < 1 || !values) return INVALID_ARGUMENT;
    int64_t utc = clock_us(CLOCK_REALTIME), took = clock_us(CLOCK_MONOTONIC) - before;
    for (int i = 0; i < count; i++) {
        values[i].timestamp = utc;
        values[i].latencyUsec = took;
        values[i].nvmlReturn = read_field(&c, &values[i]);
    }
    return OK;
}

EXPORT int nvmlDeviceGetTotalEnergyConsumption(const handle_t *handle, unsigned long long *mj)
{
    call_t c;
    int rc = lab_enter_whole(F_nvmlDeviceGetTotalEnergyConsumption, handle, &c);
    if (!rc) *mj = lab_counter(c.lab, c.device, c.now);
    return rc;
}

EXPORT int nvmlDeviceGetPowerUsage(const handle_t *handle, unsigned *mw)
{
    call_t c;
    int rc = lab_enter_whole(F_nvmlDeviceGetPowerUsage, handle, &c);
    if (!rc) *mw = power_or_zero(&c, POWER_USAGE, 0, "nvmlDeviceGetPowerUsage");
    return rc;
}

/* The lab's own symbols: the truth, and each sensor at a chosen instant, so that a test need not race a clock. */
EXPORT double lab_truth_mj(int device, int64_t a_us, int64_t b_us)
{
    const device_t *d = &current->devices[device];
    return (double)((lab_energy_uj(current, d, b_us) - lab_energy_uj(current, d, a_us)) / 1000);
}

EXPORT double lab_power_w_at(int device, int64_t at_us)
{
    return (double)lab_watts(current, &current->devices[device], at_us);
}

EXPORT uint64_t lab_counter_mj_at(int device, int64_t at_us)
{
    return lab_counter(current, &current->devices[device], at_us);
}

EXPORT uint32_t lab_sensor_mw_at(int device, int kind, int64_t at_us)
{
    return lab_power(current, &current->devices[device], (power_kind_t)kind, 0, at_us);
}
