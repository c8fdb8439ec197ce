/* What each sensor of a device answers at an instant. Pure functions of (config, time). */
#include "lab.h"

#include <math.h>
#include <string.h>

/* Streams of the noise generator, so that AVERAGE and INSTANT err independently. */
enum { STREAM_AVERAGE = 1, STREAM_INSTANT = 2 };

long double lab_energy_uj(const lab_t *lab, const device_t *d, int64_t at)
{
    long double sum = 0;
    for (int i = 0; i < d->n_waves; i++) sum += wave_energy_uj(&d->waves[i], at - lab->t0);
    return sum;
}

long double lab_watts(const lab_t *lab, const device_t *d, int64_t at)
{
    long double sum = 0;
    for (int i = 0; i < d->n_waves; i++) sum += wave_power_w(&d->waves[i], at - lab->t0);
    return sum;
}

static int64_t tick_at(const schedule_t *c, int64_t k)
{
    int64_t at = c->phase + k * c->period;
    if (c->jitter) at += (int64_t)(lab_hash(c->seed, k) % (uint64_t)(2 * c->jitter + 1)) - c->jitter;
    return at;
}

/* The last refresh at or before `at`. Jitter is below half a period, so only a neighbour can be it. */
int64_t lab_tick(const schedule_t *c, int64_t at, int64_t *index)
{
    int64_t since = at - c->phase, k = since / c->period - (since % c->period < 0) + 1;
    while (tick_at(c, k) > at) k--;
    if (index) *index = k;
    return tick_at(c, k);
}

const fault_t *lab_fault(const device_t *d, fault_kind_t kind, const char *target, int64_t at)
{
    for (int i = 0; i < d->n_faults; i++) {
        const fault_t *f = &d->faults[i];
        if (f->kind != kind || at < f->start || at >= f->end) continue;
        if (!target || !strcmp(f->target, "*") || !strcmp(f->target, target)) return f;
    }
    return NULL;
}

uint64_t lab_counter(const lab_t *lab, const device_t *d, int64_t at)
{
    const fault_t *show = lab_fault(d, FAULT_SHOW, "counter", at), *jump = lab_fault(d, FAULT_JUMP, NULL, at);
    if (show) return (uint64_t)show->value;
    const fault_t *stuck = lab_fault(d, FAULT_STUCK, NULL, at);
    if (stuck) at = stuck->start;
    int64_t origin = lab->t0, offset = d->counter_offset_mj, tick = lab_tick(&d->counter, at, NULL);
    int reset = 0;
    for (int i = 0; i < d->n_faults; i++) {
        const fault_t *f = &d->faults[i];
        if (f->kind != FAULT_RESET || f->start > at || (reset && f->start < origin)) continue;
        reset = 1;
        origin = f->start;
        offset = 0;
    }
    if (reset && tick < origin) tick = origin;
    long double uj = (lab_energy_uj(lab, d, tick) - lab_energy_uj(lab, d, origin)) * d->counter_gain;
    uj += (long double)d->counter_extra_w * (long double)(tick - origin);
    int64_t mj = offset + (int64_t)floorl(uj / 1000) + (jump ? jump->value : 0);
    return mj < 0 ? 0 : (uint64_t)mj;
}

static long double mean_watts(const lab_t *lab, const device_t *d, int64_t tick, int64_t window)
{
    if (window < 1) return lab_watts(lab, d, tick);
    return (lab_energy_uj(lab, d, tick) - lab_energy_uj(lab, d, tick - window)) / (long double)window;
}

uint32_t lab_power(const lab_t *lab, const device_t *d, power_kind_t kind, int module, int64_t at)
{
    const fault_t *show = lab_fault(d, FAULT_SHOW, "power", at);
    if (show) return (uint32_t)show->value;
    int instant = kind == POWER_INSTANT || (kind == POWER_USAGE && d->usage_is_instant);
    int64_t k, tick = lab_tick(&d->sensor, at, &k);
    long double w = mean_watts(lab, d, tick, instant ? d->instant_us : d->average_us) * d->power_gain;
    if (module) w += d->module_extra_w;
    int64_t mw = (int64_t)floorl(w * 1000 + 0.5L);
    if (d->noise_mw) {
        uint64_t seed = d->noise_seed + (instant ? STREAM_INSTANT : STREAM_AVERAGE);
        mw += (int64_t)(lab_hash(seed, k) % (uint64_t)(2 * d->noise_mw + 1)) - d->noise_mw;
    }
    return mw < 0 ? 0 : (uint32_t)mw;
}

int64_t lab_gauge(const lab_t *lab, const device_t *d, gauge_t g, int64_t at)
{
    const fault_t *f = lab_fault(d, FAULT_OVERRIDE, lab_gauge_names[g], at);
    int64_t value = f ? f->value : d->gauges[g];
    if (g != GAUGE_UTIL_PCT || value >= 0) return value;
    int64_t percent = (int64_t)lab_power(lab, d, POWER_INSTANT, 0, at) * 100 / d->gauges[GAUGE_POWER_LIMIT_MW];
    return percent > 100 ? 100 : percent;
}
