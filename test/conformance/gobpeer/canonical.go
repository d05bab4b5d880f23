package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"sort"
	"strconv"
)

// canonical describes a value so that two languages can compare it: every scalar with its kind, struct fields that are
// zero left out, as gob does, maps sorted.
func canonical(v reflect.Value) interface{} {
	switch v.Kind() {
	case reflect.Bool:
		return object("bool", v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object("int", strconv.FormatInt(v.Int(), 10))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object("uint", strconv.FormatUint(v.Uint(), 10))
	case reflect.Float32, reflect.Float64:
		return object("float", bits(v.Float()))
	case reflect.Complex64, reflect.Complex128:
		return object("complex", []string{bits(real(v.Complex())), bits(imag(v.Complex()))})
	case reflect.String:
		return object("string", base64.StdEncoding.EncodeToString([]byte(v.String())))
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return object("bytes", base64.StdEncoding.EncodeToString(v.Bytes()))
		}
		return object("slice", elements(v))
	case reflect.Array:
		return object("array", elements(v))
	case reflect.Map:
		entries := [][2]interface{}{}
		for _, key := range v.MapKeys() {
			entries = append(entries, [2]interface{}{canonical(key), canonical(v.MapIndex(key))})
		}
		sort.Slice(entries, func(i, j int) bool { return text(entries[i][0]) < text(entries[j][0]) })
		return object("map", entries)
	case reflect.Struct:
		fields := map[string]interface{}{}
		for i := 0; i < v.NumField(); i++ {
			if !isZero(v.Field(i)) {
				fields[v.Type().Field(i).Name] = canonical(v.Field(i))
			}
		}
		return object("struct", fields)
	case reflect.Ptr:
		return canonical(v.Elem())
	case reflect.Interface:
		if v.IsNil() {
			return object("interface", nil)
		}
		return object("interface", map[string]interface{}{"name": v.Elem().Type().String(), "value": canonical(v.Elem())})
	}
	panic("no canonical form of " + v.Kind().String())
}

// isZero follows what may be absent on the wire; containers count as zero when they are empty.
func isZero(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Ptr, reflect.Interface:
		return v.IsNil() || (v.Kind() == reflect.Ptr && isZero(v.Elem()))
	case reflect.Array:
		for i := 0; i < v.Len(); i++ {
			if !isZero(v.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := 0; i < v.NumField(); i++ {
			if !isZero(v.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Float32, reflect.Float64:
		// Minus zero as well: gob compares with ==.
		return v.Float() == 0
	case reflect.Complex64, reflect.Complex128:
		return v.Complex() == 0
	}
	return v.IsZero()
}

func elements(v reflect.Value) []interface{} {
	result := []interface{}{}
	for i := 0; i < v.Len(); i++ {
		result = append(result, canonical(v.Index(i)))
	}
	return result
}

func object(kind string, value interface{}) map[string]interface{} {
	return map[string]interface{}{kind: value}
}

func bits(f float64) string { return fmt.Sprintf("%016x", math.Float64bits(f)) }

func text(v interface{}) string {
	bytes, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(bytes)
}
