// Metal's vectors, as far as kernels use them.
#pragma once

namespace shim {

template <class T, int N> struct Vector;

template <class T> struct alignas(2 * sizeof(T)) Vector<T, 2> {
    T x, y;
};

template <class T> struct alignas(4 * sizeof(T)) Vector<T, 3> {
    T x, y, z;
};

template <class T> struct alignas(4 * sizeof(T)) Vector<T, 4> {
    T x, y, z, w;

    T& operator[](unsigned i) { return i == 0 ? x : i == 1 ? y : i == 2 ? z : w; }
    const T& operator[](unsigned i) const { return const_cast<Vector&>(*this)[i]; }

    friend Vector operator+(Vector a, Vector b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
    friend Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w}; }
    friend Vector operator*(Vector a, Vector b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }
    friend Vector operator*(T a, Vector b) { return {a * b.x, a * b.y, a * b.z, a * b.w}; }
    friend Vector operator*(Vector a, T b) { return b * a; }
    Vector& operator+=(Vector b) { return *this = *this + b; }
    Vector& operator*=(T b) { return *this = b * *this; }
};

} // namespace shim
