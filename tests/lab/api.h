/* What every exported NVML symbol begins with: find the device, take its time, apply its faults. */
#ifndef LAB_API_H
#define LAB_API_H

#include "lab.h"

#define EXPORT __attribute__((visibility("default")))

/* Every function whose calls are counted and can be made to fail, in the order of the call-count file. */
#define LAB_FUNCTIONS(X)                                                                                              \
    X(nvmlInitWithFlags) X(nvmlShutdown) X(nvmlSystemGetDriverVersion) X(nvmlSystemGetNVMLVersion)                    \
    X(nvmlSystemGetCudaDriverVersion) X(nvmlDeviceGetCount) X(nvmlDeviceGetHandleByIndex)                             \
    X(nvmlDeviceGetHandleByUUID) X(nvmlDeviceGetHandleByPciBusId) X(nvmlDeviceGetFieldValues)                         \
    X(nvmlDeviceGetTotalEnergyConsumption) X(nvmlDeviceGetPowerUsage) X(nvmlDeviceGetName) X(nvmlDeviceGetUUID)       \
    X(nvmlDeviceGetIndex) X(nvmlDeviceGetMinorNumber) X(nvmlDeviceGetPciInfo) X(nvmlDeviceGetUtilizationRates)        \
    X(nvmlDeviceGetMemoryInfo) X(nvmlDeviceGetTemperature) X(nvmlDeviceGetClockInfo) X(nvmlDeviceGetMaxClockInfo)     \
    X(nvmlDeviceGetCurrentClocksEventReasons) X(nvmlDeviceGetPowerManagementMode)                                     \
    X(nvmlDeviceGetPowerManagementLimit) X(nvmlDeviceGetPowerManagementDefaultLimit)                                  \
    X(nvmlDeviceGetPowerManagementLimitConstraints) X(nvmlDeviceGetEnforcedPowerLimit)                                \
    X(nvmlDeviceGetPersistenceMode) X(nvmlDeviceGetEccMode) X(nvmlDeviceGetComputeMode)                               \
    X(nvmlDeviceGetPerformanceState) X(nvmlDeviceGetArchitecture) X(nvmlDeviceGetCudaComputeCapability)               \
    X(nvmlDeviceGetComputeRunningProcesses) X(nvmlDeviceGetGraphicsRunningProcesses)                                  \
    X(nvmlDeviceGetMPSComputeRunningProcesses) X(nvmlDeviceGetMigMode) X(nvmlDeviceGetMaxMigDeviceCount)              \
    X(nvmlDeviceGetMigDeviceHandleByIndex) X(nvmlDeviceGetDeviceHandleFromMigDeviceHandle)                            \
    X(nvmlDeviceIsMigDeviceHandle) X(nvmlDeviceGetGpuInstanceId) X(nvmlDeviceGetComputeInstanceId)

typedef enum {
#define X(name) F_##name,
    LAB_FUNCTIONS(X)
#undef X
    F_COUNT
} function_t;

/* An NVML handle points at one of these; they are static, so a handle survives a second nvmlInit. */
typedef struct {
    int device, mig; /* mig: -1 for the whole device */
} handle_t;

typedef struct {
    const lab_t *lab;
    const device_t *device;
    const mig_t *mig; /* NULL for the whole device */
    int64_t now;      /* the instant the answer is true for, CLOCK_MONOTONIC microseconds */
} call_t;

/* Counts the call, spends its latency and fails it if a fault says so. Returns an nvmlReturn_t. */
int lab_enter_system(function_t fn, const lab_t **lab);
int lab_enter(function_t fn, const handle_t *handle, call_t *call);
/* As lab_enter, but NOT_SUPPORTED on a MIG device handle. */
int lab_enter_whole(function_t fn, const handle_t *handle, call_t *call);
const handle_t *lab_handle(int device, int mig);
int lab_copy_text(char *to, unsigned length, const char *text);

#endif
