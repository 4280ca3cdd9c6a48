// An order in, as JSON; out, the invoice as an HTML page, made by html/template, which escapes what customers wrote.
//
// A plain command that reads standard input and writes standard output: it knows nothing of wasmqtt, and runs natively too.
package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"os"
	"strconv"
	"time"
)

//go:embed invoice.html
var page string

// Order is what comes in. Money is in cents.
type Order struct {
	Number   string    `json:"number"`
	Date     time.Time `json:"date"`
	Customer struct {
		Name    string   `json:"name"`
		Address []string `json:"address"`
	} `json:"customer"`
	Lines []Line `json:"lines"`
	// VAT is in percent.
	VAT int64 `json:"vat"`
}

// Line is one article of an order.
type Line struct {
	Article  string `json:"article"`
	Quantity int64  `json:"quantity"`
	Price    int64  `json:"price"`
}

// Total is the line's price.
func (l Line) Total() int64 { return l.Quantity * l.Price }

// Net is the sum of the lines.
func (o Order) Net() (sum int64) {
	for _, line := range o.Lines {
		sum += line.Total()
	}
	return sum
}

// Tax is the value added tax on it, rounded to the cent.
func (o Order) Tax() int64 { return (o.Net()*o.VAT + 50) / 100 }

// Gross is what the customer pays.
func (o Order) Gross() int64 { return o.Net() + o.Tax() }

// money writes cents as 1,234.50.
func money(cents int64) string {
	whole := strconv.FormatInt(cents/100, 10)
	for at := len(whole) - 3; at > 0; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	return fmt.Sprintf("%s.%02d", whole, cents%100)
}

func check(order Order) error {
	if order.Number == "" || len(order.Lines) == 0 {
		return fmt.Errorf("an order needs a number and lines")
	}
	if order.VAT < 0 || order.VAT > 100 {
		return fmt.Errorf("vat: %d is not from 0 to 100", order.VAT)
	}
	for i, line := range order.Lines {
		if line.Quantity < 1 || line.Quantity > 1e6 || line.Price < 0 || line.Price > 1e9 {
			return fmt.Errorf("line %d: %q: quantity or price is out of range", i+1, line.Article)
		}
	}
	return nil
}

func run() error {
	var order Order
	from := json.NewDecoder(os.Stdin)
	from.DisallowUnknownFields()
	if err := from.Decode(&order); err != nil {
		return fmt.Errorf("the input is no order: %w", err)
	}
	if err := check(order); err != nil {
		return err
	}
	invoice, err := template.New("invoice").Funcs(template.FuncMap{"money": money}).Parse(page)
	if err != nil {
		return err
	}
	return invoice.Execute(os.Stdout, order)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
