/* Reads the config file: one "key value..." a line, global keys first, then a block for each device. */
#include "lab.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const lab_gauge_names[GAUGE_COUNT] = {
    "util_pct", "mem_used_mib", "temp_c", "sm_clock_mhz", "throttle_bits", "power_limit_mw",
};

typedef enum { TEXT, LONG_TEXT, INT, REAL } field_type_t;

typedef struct {
    const char *key;
    field_type_t type;
    size_t offset;
} field_t;

static const field_t GLOBAL_FIELDS[] = {
    {"t0_us", INT, offsetof(lab_t, t0)},
    {"init_error", INT, offsetof(lab_t, init_error)},
    {"cuda_version", INT, offsetof(lab_t, cuda_version)},
    {"driver", TEXT, offsetof(lab_t, driver)},
    {"nvml_version", TEXT, offsetof(lab_t, nvml_version)},
    {"calls_path", LONG_TEXT, offsetof(lab_t, calls_path)},
    {0},
};

#define DEVICE(type, member) {#member, type, offsetof(device_t, member)}
static const field_t DEVICE_FIELDS[] = {
    DEVICE(TEXT, name),
    DEVICE(TEXT, uuid),
    DEVICE(LONG_TEXT, process_file),
    DEVICE(INT, pci_bus),
    DEVICE(INT, memory_mib),
    DEVICE(INT, architecture),
    DEVICE(INT, cc_major),
    DEVICE(INT, cc_minor),
    DEVICE(INT, persistence),
    DEVICE(INT, ecc),
    DEVICE(INT, mig_mode),
    DEVICE(INT, limit_default_mw),
    DEVICE(INT, limit_min_mw),
    DEVICE(INT, limit_max_mw),
    DEVICE(INT, sm_clock_max_mhz),
    DEVICE(INT, counter_offset_mj),
    DEVICE(INT, average_us),
    DEVICE(INT, instant_us),
    DEVICE(INT, usage_is_instant),
    DEVICE(REAL, counter_gain),
    DEVICE(REAL, power_gain),
    DEVICE(REAL, counter_extra_w),
    DEVICE(REAL, module_extra_w),
    DEVICE(INT, noise_mw),
    DEVICE(INT, noise_seed),
    DEVICE(INT, latency_us),
    {0},
};

static const struct {
    const char *key;
    fault_kind_t kind;
} FAULTS[] = {
    {"fail", FAULT_FAIL},         {"stall", FAULT_STALL},       {"zero", FAULT_ZERO},       {"stuck", FAULT_STUCK},
    {"reset", FAULT_RESET},       {"show", FAULT_SHOW},         {"jump", FAULT_JUMP},       {"override", FAULT_OVERRIDE},
    {"process", FAULT_PROCESS},   {0},
};

static int set_field(const field_t *fields, void *base, const char *key, const char *value)
{
    for (; fields->key; fields++) {
        if (strcmp(fields->key, key)) continue;
        char *at = (char *)base + fields->offset, *end = NULL;
        switch (fields->type) {
        case TEXT:
            snprintf(at, LAB_TEXT, "%s", value);
            return 0;
        case LONG_TEXT:
            snprintf(at, 512, "%s", value);
            return 0;
        case INT:
            *(int64_t *)at = strtoll(value, &end, 10);
            break;
        case REAL:
            *(double *)at = strtod(value, &end);
            break;
        }
        return end == value || *end ? -1 : 0;
    }
    return 1;
}

static void *grow(void *array, int count, size_t size)
{
    void *larger = realloc(array, (size_t)(count + 1) * size);
    if (!larger) abort();
    return larger;
}

/* "START END VALUE EXTRA TARGET", times relative to the origin, END -1 = for ever. */
static int add_fault(const lab_t *lab, device_t *d, fault_kind_t kind, const char *value)
{
    long long start, end, number, extra;
    fault_t f = {.kind = kind};
    if (sscanf(value, "%lld %lld %lld %lld %95s", &start, &end, &number, &extra, f.target) != 5) return -1;
    f.start = lab->t0 + start;
    f.end = end < 0 ? INT64_MAX : lab->t0 + end;
    f.value = number;
    f.extra = extra;
    d->faults = grow(d->faults, d->n_faults, sizeof f);
    d->faults[d->n_faults++] = f;
    return 0;
}

static int parse_clock(const lab_t *lab, schedule_t *c, const char *value)
{
    long long period, phase, jitter, seed;
    if (sscanf(value, "%lld %lld %lld %lld", &period, &phase, &jitter, &seed) != 4) return -1;
    *c = (schedule_t){period, lab->t0 + phase, jitter, (uint64_t)seed};
    return period < 1 || jitter < 0 || 2 * jitter >= period ? -1 : 0;
}

static int device_line(lab_t *lab, device_t *d, const char *key, const char *value)
{
    if (!strcmp(key, "wave")) {
        d->waves = grow(d->waves, d->n_waves, sizeof *d->waves);
        return wave_parse(&d->waves[d->n_waves++], value);
    }
    if (!strcmp(key, "counter")) return parse_clock(lab, &d->counter, value);
    if (!strcmp(key, "sensor")) return parse_clock(lab, &d->sensor, value);
    if (!strcmp(key, "mig")) {
        if (d->n_mig == LAB_MAX_MIG) return -1;
        mig_t *m = &d->mig[d->n_mig++];
        long long mib;
        if (sscanf(value, "%95s %d %d %lld", m->uuid, &m->gpu_instance, &m->compute_instance, &mib) != 4) return -1;
        m->memory_mib = mib;
        return 0;
    }
    for (int g = 0; g < GAUGE_COUNT; g++) {
        if (strcmp(key, lab_gauge_names[g])) continue;
        d->gauges[g] = strtoll(value, NULL, 10);
        return 0;
    }
    for (int i = 0; FAULTS[i].key; i++)
        if (!strcmp(key, FAULTS[i].key)) return add_fault(lab, d, FAULTS[i].kind, value);
    return set_field(DEVICE_FIELDS, d, key, value) ? -1 : 0;
}

static int config_line(lab_t *lab, const char *key, const char *value)
{
    if (!strcmp(key, "device")) {
        if (lab->count == LAB_MAX_DEVICES) return -1;
        lab->count++;
        return 0;
    }
    if (lab->count) return device_line(lab, &lab->devices[lab->count - 1], key, value);
    return set_field(GLOBAL_FIELDS, lab, key, value) ? -1 : 0;
}

lab_t *lab_load(const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        fprintf(stderr, "fake NVML: cannot open config %s\n", path);
        return NULL;
    }
    lab_t *lab = calloc(1, sizeof *lab);
    char *line = NULL;
    size_t size = 0;
    int number = 0, bad = lab == NULL;
    while (!bad && getline(&line, &size, file) >= 0) {
        number++;
        line[strcspn(line, "\n")] = 0;
        if (!*line || *line == '#') continue;
        char *value = strchr(line, ' ');
        if (value) *value++ = 0;
        bad = config_line(lab, line, value ? value : "");
    }
    if (bad) fprintf(stderr, "fake NVML: %s:%d: cannot understand '%s'\n", path, number, line ? line : "");
    free(line);
    fclose(file);
    return bad ? NULL : lab;
}
