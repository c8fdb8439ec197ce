/* LD_PRELOAD: wall-clock steps. KIT_LAB_CLOCK="AT:STEP,AT:STEP,..." in microseconds, AT on CLOCK_MONOTONIC:
 * from AT on, CLOCK_REALTIME is STEP later than the machine's. CLOCK_MONOTONIC is never touched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

typedef int clock_gettime_t(clockid_t, struct timespec *);

static clock_gettime_t *real;
static const char *steps = "";

__attribute__((constructor)) static void start(void)
{
    const char *given = getenv("KIT_LAB_CLOCK");
    if (given) steps = given;
    real = (clock_gettime_t *)dlsym(RTLD_NEXT, "clock_gettime");
}

static int64_t offset_us(void)
{
    struct timespec mono;
    int64_t sum = 0;
    long long at, step;
    int used;
    real(CLOCK_MONOTONIC, &mono);
    int64_t now = (int64_t)mono.tv_sec * 1000000 + mono.tv_nsec / 1000;
    for (const char *p = steps; sscanf(p, "%lld:%lld%n", &at, &step, &used) == 2; p += *p == ',') {
        p += used;
        if (now >= at) sum += step;
    }
    return sum;
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
    if (!real) start();
    int rc = real(id, ts);
    if (rc || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return rc;
    int64_t us = offset_us(), ns = ts->tv_nsec + us % 1000000 * 1000;
    ts->tv_sec += us / 1000000 + (ns >= 1000000000) - (ns < 0);
    ts->tv_nsec = (ns + 1000000000) % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    struct timespec ts;
    (void)zone;
    int rc = clock_gettime(CLOCK_REALTIME, &ts);
    *tv = (struct timeval){ts.tv_sec, ts.tv_nsec / 1000};
    return rc;
}

time_t time(time_t *out)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (out) *out = ts.tv_sec;
    return ts.tv_sec;
}
