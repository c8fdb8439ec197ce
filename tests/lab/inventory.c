/* The rest of the NVML surface a meter touches: identity, gauges, limits, processes, MIG. */
#include "api.h"

#include <stdio.h>
#include <string.h>

#define MIB (1024ull * 1024ull)

typedef struct {
    unsigned long long total, free, used;
} memory_t;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} memory_v2_t;
typedef struct {
    unsigned gpu, memory;
} utilization_t;
typedef struct {
    unsigned version, sensor;
    int temperature;
} temperature_t;
typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info_t;
typedef struct {
    unsigned pid;
    unsigned long long used_memory;
    unsigned gpu_instance, compute_instance;
} process_t;

/* A function of one whole device that stores one number. */
#define WHOLE_DEVICE_GETTER(symbol, counted_as, type, expression)                                                     \
    EXPORT int symbol(const handle_t *handle, type *out)                                                              \
    {                                                                                                                 \
        call_t c;                                                                                                     \
        int rc = lab_enter_whole(F_##counted_as, handle, &c);                                                         \
        if (!rc) *out = (type)(expression);                                                                           \
        return rc;                                                                                                    \
    }
#define GAUGE(g) lab_gauge(c.lab, c.device, g, c.now)

WHOLE_DEVICE_GETTER(nvmlDeviceGetMinorNumber, nvmlDeviceGetMinorNumber, unsigned, handle->device)
WHOLE_DEVICE_GETTER(nvmlDeviceGetCurrentClocksEventReasons, nvmlDeviceGetCurrentClocksEventReasons,
                    unsigned long long, GAUGE(GAUGE_THROTTLE_BITS))
WHOLE_DEVICE_GETTER(nvmlDeviceGetCurrentClocksThrottleReasons, nvmlDeviceGetCurrentClocksEventReasons,
                    unsigned long long, GAUGE(GAUGE_THROTTLE_BITS))
WHOLE_DEVICE_GETTER(nvmlDeviceGetPowerManagementMode, nvmlDeviceGetPowerManagementMode, unsigned, 1)
WHOLE_DEVICE_GETTER(nvmlDeviceGetPowerManagementLimit, nvmlDeviceGetPowerManagementLimit, unsigned,
                    GAUGE(GAUGE_POWER_LIMIT_MW))
WHOLE_DEVICE_GETTER(nvmlDeviceGetPowerManagementDefaultLimit, nvmlDeviceGetPowerManagementDefaultLimit, unsigned,
                    c.device->limit_default_mw)
WHOLE_DEVICE_GETTER(nvmlDeviceGetEnforcedPowerLimit, nvmlDeviceGetEnforcedPowerLimit, unsigned,
                    GAUGE(GAUGE_POWER_LIMIT_MW))
WHOLE_DEVICE_GETTER(nvmlDeviceGetPersistenceMode, nvmlDeviceGetPersistenceMode, unsigned, c.device->persistence)
WHOLE_DEVICE_GETTER(nvmlDeviceGetComputeMode, nvmlDeviceGetComputeMode, unsigned, 0)
WHOLE_DEVICE_GETTER(nvmlDeviceGetPerformanceState, nvmlDeviceGetPerformanceState, unsigned, 0)
WHOLE_DEVICE_GETTER(nvmlDeviceGetArchitecture, nvmlDeviceGetArchitecture, unsigned, c.device->architecture)
WHOLE_DEVICE_GETTER(nvmlDeviceGetMaxMigDeviceCount, nvmlDeviceGetMaxMigDeviceCount, unsigned,
                    c.device->mig_mode < 0 ? 0 : LAB_MAX_MIG)

EXPORT int nvmlDeviceGetCount_v2(unsigned *count)
{
    const lab_t *lab;
    int rc = lab_enter_system(F_nvmlDeviceGetCount, &lab);
    if (!rc) *count = (unsigned)lab->count;
    return rc;
}

EXPORT int nvmlSystemGetDriverVersion(char *text, unsigned length)
{
    const lab_t *lab;
    int rc = lab_enter_system(F_nvmlSystemGetDriverVersion, &lab);
    return rc ? rc : lab_copy_text(text, length, lab->driver);
}

EXPORT int nvmlSystemGetNVMLVersion(char *text, unsigned length)
{
    const lab_t *lab;
    int rc = lab_enter_system(F_nvmlSystemGetNVMLVersion, &lab);
    return rc ? rc : lab_copy_text(text, length, lab->nvml_version);
}

EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    const lab_t *lab;
    int rc = lab_enter_system(F_nvmlSystemGetCudaDriverVersion, &lab);
    if (!rc) *version = (int)lab->cuda_version;
    return rc;
}

EXPORT int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

EXPORT const char *nvmlErrorString(int code)
{
    switch (code) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case 10: return "Timeout";
    case 15: return "GPU is lost";
    default: return "Unknown Error";
    }
}

static int bus_id(char *text, size_t size, const device_t *d)
{
    return snprintf(text, size, "00000000:%02X:00.0", (unsigned)(d->pci_bus & 0xFF));
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, const handle_t **handle)
{
    const lab_t *lab;
    int rc = lab_enter_system(F_nvmlDeviceGetHandleByIndex, &lab);
    if (rc) return rc;
    if (index >= (unsigned)lab->count) return INVALID_ARGUMENT;
    *handle = lab_handle((int)index, -1);
    return OK;
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, const handle_t **handle)
{
    const lab_t *lab;
    int rc = lab_enter_system(F_nvmlDeviceGetHandleByUUID, &lab);
    if (rc) return rc;
    for (int i = 0; i < lab->count; i++) {
        const device_t *d = &lab->devices[i];
        for (int m = -1; m < (d->mig_mode > 0 ? d->n_mig : 0); m++) {
            if (strcmp(uuid, m < 0 ? d->uuid : d->mig[m].uuid)) continue;
            *handle = lab_handle(i, m);
            return OK;
        }
    }
    return NOT_FOUND;
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *text, const handle_t **handle)
{
    const lab_t *lab;
    unsigned domain = 0, bus = 0, device = 0, function = 0;
    int rc = lab_enter_system(F_nvmlDeviceGetHandleByPciBusId, &lab);
    if (rc) return rc;
    if (sscanf(text, "%x:%x:%x.%x", &domain, &bus, &device, &function) < 3) return INVALID_ARGUMENT;
    for (int i = 0; i < lab->count; i++) {
        if (domain || device || function || lab->devices[i].pci_bus != (int64_t)bus) continue;
        *handle = lab_handle(i, -1);
        return OK;
    }
    return NOT_FOUND;
}

EXPORT int nvmlDeviceGetName(const handle_t *handle, char *text, unsigned length)
{
    call_t c;
    char name[LAB_TEXT + 48];
    int rc = lab_enter(F_nvmlDeviceGetName, handle, &c);
    if (rc) return rc;
    if (!c.mig) return lab_copy_text(text, length, c.device->name);
    snprintf(name, sizeof name, "%s MIG 1g.%dgb", c.device->name, (int)(c.mig->memory_mib / 1000));
    return lab_copy_text(text, length, name);
}

EXPORT int nvmlDeviceGetUUID(const handle_t *handle, char *text, unsigned length)
{
    call_t c;
    int rc = lab_enter(F_nvmlDeviceGetUUID, handle, &c);
    return rc ? rc : lab_copy_text(text, length, c.mig ? c.mig->uuid : c.device->uuid);
}

EXPORT int nvmlDeviceGetIndex(const handle_t *handle, unsigned *index)
{
    call_t c;
    int rc = lab_enter(F_nvmlDeviceGetIndex, handle, &c);
    if (!rc) *index = (unsigned)(c.mig ? handle->mig : handle->device);
    return rc;
}

EXPORT int nvmlDeviceGetPciInfo_v3(const handle_t *handle, pci_info_t *info)
{
    call_t c;
    int rc = lab_enter_whole(F_nvmlDeviceGetPciInfo, handle, &c);
    if (rc) return rc;
    *info = (pci_info_t){.bus = (unsigned)c.device->pci_bus, .pci_device_id = 0x233010DEu};
    bus_id(info->bus_id, sizeof info->bus_id, c.device);
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "%.12s", info->bus_id + 4);
    return OK;
}

EXPORT int nvmlDeviceGetUtilizationRates(const handle_t *handle, utilization_t *out)
{
    call_t c;
    int rc = lab_enter_whole(F_nvmlDeviceGetUtilizationRates, handle, &c);
    if (rc) return rc;
    if (c.device->mig_mode > 0) return NOT_SUPPORTED;
    out->gpu = (unsigned)GAUGE(GAUGE_UTIL_PCT);
    out->memory = out->gpu / 2;
    return OK;
}

static int memory(const handle_t *handle, memory_t *out)
{
    call_t c;
    int rc = lab_enter(F_nvmlDeviceGetMemoryInfo, handle, &c);
    if (rc) return rc;
    out->total = (unsigned long long)(c.mig ? c.mig->memory_mib : c.device->memory_mib) * MIB;
    out->used = c.mig ? 0 : (unsigned long long)GAUGE(GAUGE_MEM_USED_MIB) * MIB;
    out->free = out->total - out->used;
    return OK;
}

EXPORT int nvmlDeviceGetMemoryInfo(const handle_t *handle, memory_t *out) { return memory(handle, out); }

EXPORT int nvmlDeviceGetMemoryInfo_v2(const handle_t *handle, memory_v2_t *out)
{
    memory_t m;
    if (out->version != 0x02000028u) return VERSION_MISMATCH;
    int rc = memory(handle, &m);
    if (rc) return rc;
    out->total = m.total;
    out->reserved = 0;
    out->free = m.free;
    out->used = m.used;
    return OK;
}

EXPORT int nvmlDeviceGetTemperature(const handle_t *handle, unsigned sensor, unsigned *out)
{
    call_t c;
    int rc = lab_enter_whole(F_nvmlDeviceGetTemperature, handle, &c);
    if (rc) return rc;
    if (sensor) return INVALID_ARGUMENT;
    *out = (unsigned)GAUGE(GAUGE_TEMP_C);
    return OK;
}

EXPORT int nvmlDeviceGetTemperatureV(const handle_t *handle, temperature_t *out)
{
    unsigned celsius;
    if (out->version != 0x0100000Cu) return VERSION_MISMATCH;
    int rc = nvmlDeviceGetTemperature(handle, out->sensor, &celsius);
    if (!rc) out->temperature = (int)celsius;
    return rc;
}

static int clock_mhz(function_t fn, const handle_t *handle, unsigned domain, unsigned *out)
{
    call_t c;
    int rc = lab_enter_whole(fn, handle, &c);
    if (rc) return rc;
    if (domain > 3) return INVALID_ARGUMENT;
    if (domain == 2) *out = 2619;
    else *out = (unsigned)(fn == F_nvmlDeviceGetMaxClockInfo ? c.device->sm_clock_max_mhz : GAUGE(GAUGE_SM_CLOCK_MHZ));
    return OK;
}

EXPORT int nvmlDeviceGetClockInfo(const handle_t *handle, unsigned domain, unsigned *out)
{
    return clock_mhz(F_nvmlDeviceGetClockInfo, handle, domain, out);
}

EXPORT int nvmlDeviceGetMaxClockInfo(const handle_t *handle, unsigned domain, unsigned *out)
{
    return clock_mhz(F_nvmlDeviceGetMaxClockInfo, handle, domain, out);
}

EXPORT int nvmlDeviceGetPowerManagementLimitConstraints(const handle_t *handle, unsigned *low, unsigned *high)
{
    call_t c;
    int rc = lab_enter_whole(F_nvmlDeviceGetPowerManagementLimitConstraints, handle, &c);
    if (rc) return rc;
    *low = (unsigned)c.device->limit_min_mw;
    *high = (unsigned)c.device->limit_max_mw;
    return OK;
}

EXPORT int nvmlDeviceGetEccMode(const handle_t *handle, unsigned *now, unsigned *pending)
{
    call_t c;
    int rc = lab_enter_whole(F_nvmlDeviceGetEccMode, handle, &c);
    if (!rc) *now = *pending = (unsigned)c.device->ecc;
    return rc;
}

EXPORT int nvmlDeviceGetCudaComputeCapability(const handle_t *handle, int *major, int *minor)
{
    call_t c;
    int rc = lab_enter(F_nvmlDeviceGetCudaComputeCapability, handle, &c);
    if (rc) return rc;
    *major = (int)c.device->cc_major;
    *minor = (int)c.device->cc_minor;
    return OK;
}

static int processes(function_t fn, const char *type, const handle_t *handle, unsigned *count, process_t *out)
{
    call_t c;
    unsigned found = 0, room = *count;
    int rc = lab_enter(fn, handle, &c);
    if (rc) return rc;
    process_t p = {.gpu_instance = 0xFFFFFFFFu, .compute_instance = 0xFFFFFFFFu};
    for (int i = 0; i < c.device->n_faults; i++) {
        const fault_t *f = &c.device->faults[i];
        if (f->kind != FAULT_PROCESS || c.now < f->start || c.now >= f->end || strcmp(f->target, type)) continue;
        p.pid = (unsigned)f->value;
        p.used_memory = (unsigned long long)f->extra * MIB;
        if (out && found < room) out[found] = p;
        found++;
    }
    FILE *file = *c.device->process_file && !strcmp(type, "compute") ? fopen(c.device->process_file, "re") : NULL;
    while (file && fscanf(file, "%u", &p.pid) == 1) {
        p.used_memory = 1024 * MIB;
        if (out && found < room) out[found] = p;
        found++;
    }
    if (file) fclose(file);
    *count = found;
    return found > room || (found && !out) ? INSUFFICIENT_SIZE : OK;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(const handle_t *handle, unsigned *count, process_t *out)
{
    return processes(F_nvmlDeviceGetComputeRunningProcesses, "compute", handle, count, out);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(const handle_t *handle, unsigned *count, process_t *out)
{
    return processes(F_nvmlDeviceGetGraphicsRunningProcesses, "graphics", handle, count, out);
}

EXPORT int nvmlDeviceGetMPSComputeRunningProcesses_v3(const handle_t *handle, unsigned *count, process_t *out)
{
    return processes(F_nvmlDeviceGetMPSComputeRunningProcesses, "mps", handle, count, out);
}

EXPORT int nvmlDeviceGetMigMode(const handle_t *handle, unsigned *now, unsigned *pending)
{
    call_t c;
    int rc = lab_enter_whole(F_nvmlDeviceGetMigMode, handle, &c);
    if (rc) return rc;
    if (c.device->mig_mode < 0) return NOT_SUPPORTED;
    *now = *pending = (unsigned)c.device->mig_mode;
    return OK;
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(const handle_t *handle, unsigned index, const handle_t **out)
{
    call_t c;
    int rc = lab_enter_whole(F_nvmlDeviceGetMigDeviceHandleByIndex, handle, &c);
    if (rc) return rc;
    if (c.device->mig_mode < 1) return NOT_SUPPORTED;
    if (index >= (unsigned)c.device->n_mig) return index < LAB_MAX_MIG ? NOT_FOUND : INVALID_ARGUMENT;
    *out = lab_handle(handle->device, (int)index);
    return OK;
}

EXPORT int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(const handle_t *handle, const handle_t **out)
{
    call_t c;
    int rc = lab_enter(F_nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle, &c);
    if (!rc) *out = lab_handle(handle->device, -1);
    return rc;
}

EXPORT int nvmlDeviceIsMigDeviceHandle(const handle_t *handle, unsigned *is_mig)
{
    call_t c;
    int rc = lab_enter(F_nvmlDeviceIsMigDeviceHandle, handle, &c);
    if (!rc) *is_mig = c.mig != NULL;
    return rc;
}

EXPORT int nvmlDeviceGetGpuInstanceId(const handle_t *handle, unsigned *id)
{
    call_t c;
    int rc = lab_enter(F_nvmlDeviceGetGpuInstanceId, handle, &c);
    if (!rc && c.mig) *id = (unsigned)c.mig->gpu_instance;
    return rc ? rc : c.mig ? OK : NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetComputeInstanceId(const handle_t *handle, unsigned *id)
{
    call_t c;
    int rc = lab_enter(F_nvmlDeviceGetComputeInstanceId, handle, &c);
    if (!rc && c.mig) *id = (unsigned)c.mig->compute_instance;
    return rc ? rc : c.mig ? OK : NOT_SUPPORTED;
}
